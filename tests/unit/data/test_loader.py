"""The loader's promises: every sample once, any split of the work, any point of resume, any number of workers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from zoo.data.base import OpenData, Transform
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.loader import Loader
from zoo.data.order import epoch_order, permutation
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.transforms.colour import TokenDropout
from zoo.data.transforms.crop import RandomCrop, RandomErasing, RandomFlip
from zoo.errors import CheckpointError, ConfigError, DataError
from zoo.settings import Cache, LoaderSettings, Order
from zoo.structs import Batch


@dataclass
class Words:
    """Texts of unequal lengths, an image that tells its number, and samples that cannot be read."""

    size: int
    bad: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.size

    def read(self, index: int) -> Mapping[str, Any]:
        if index in self.bad:
            raise DataError("damaged")
        return {"text": "x" * (index * 7 % 23), "image": torch.full((1, 6, 6), index % 256, dtype=torch.uint8), "label": "ab"[index % 2]}

    def describe(self, index: int) -> str:
        return f"file {index}"


def opened(size: int, bad: tuple[int, ...] = ()) -> OpenData:
    inputs = {"text": TextCodec(name="text", tokenizer=ByteTokenizer(), max_length=20), "image": ImageCodec(name="image", channels=1, size=(6, 6))}
    return OpenData(inputs=inputs, targets={"label": ClassCodec(name="label", labels=("a", "b"))}, splits={"train": Words(size, bad), "test": Words(size, bad)})


def loader(
    size: int = 17, *, bad: tuple[int, ...] = (), batch_size: int = 4, training: bool = True, augment: dict[str, Transform] | None = None, **rest: Any
) -> Loader:
    keys = {key: rest.pop(key) for key in ("rank", "world", "micro_batches") if key in rest}
    seed = rest.pop("seed", 3)
    settings = LoaderSettings(**rest)
    return Loader(
        data=opened(size, bad),
        split="train" if training else "test",
        settings=settings,
        augment=augment or {},
        seed=seed,
        training=training,
        batch_size=batch_size,
        **keys,
    )


AUGMENT: dict[str, Transform] = {"crop": RandomCrop(padding=2), "flip": RandomFlip(), "erase": RandomErasing(probability=0.8)}


def fingerprint(parts: list[Batch]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for tensor in [
            part.ids,
            part.valid,
            *part.targets.values(),
            *(entry for value in part.inputs.values() for entry in (value.values, value.mask) if entry is not None),
        ]:
            assert isinstance(tensor, torch.Tensor)
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def counted(parts: list[Batch]) -> list[int]:
    return [int(row) for part in parts for row, valid in zip(part.ids, part.valid, strict=True) if valid]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", range(1, 18))
def test_each_sample_once_over_all_ranks(size: int, world: int, training: bool) -> None:
    """R7: 1, 2, 3 ranks x sizes 1 to 17; every rank has as many batches as the others, and none is empty."""
    ranks = [list(loader(size, world=world, rank=rank, training=training, micro_batches=2)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert all(part.size > 0 for batches in ranks for parts in batches for part in parts)
    assert sorted(row for batches in ranks for parts in batches for row in counted(parts)) == list(range(size))
    together = [[row for batches in ranks for row in counted(batches[number])] for number in range(len(ranks[0]))]
    assert together == [counted(parts) for parts in loader(size, training=training)]  # the same global batches, in the same order


@pytest.mark.parametrize("order", list(Order))
def test_going_on_from_any_batch(order: Order) -> None:
    """R4: the state after any batch reproduces the rest, over the boundary of an epoch too."""
    whole = loader(order=order, augment=AUGMENT)
    states, prints = [whole.state_dict()], []
    for _ in range(2):
        for parts in whole:
            states.append(whole.state_dict())
            prints.append(fingerprint(parts))
    assert states[5] == {"epoch": 1, "batch": 0}
    assert states[-1] == {"epoch": 2, "batch": 0}
    for place, state in enumerate(states[:-1]):
        again = loader(order=order, augment=AUGMENT)
        again.load_state_dict(state)
        rest = [fingerprint(parts) for _ in range(2 - state["epoch"]) for parts in again]
        assert rest == prints[place:]


def test_the_state_moves_when_a_batch_is_handed_out() -> None:
    """R4: prefetching workers are ahead of it."""
    one = loader(workers=2)
    batches = iter(one)
    next(batches)
    next(batches)
    assert one.state_dict() == {"epoch": 0, "batch": 2}
    rest = [fingerprint(parts) for parts in one]  # a second iteration goes on from the state
    fresh = loader()
    fresh.load_state_dict({"epoch": 0, "batch": 2})
    assert rest == [fingerprint(parts) for parts in fresh]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cache", [Cache.MEMORY, Cache.NONE])
def test_batches_do_not_depend_on_workers_or_cache(workers: int, cache: Cache) -> None:
    """R23: the same to the bit, two epochs long, for any worker count, read or kept in memory."""
    plain, other = loader(augment=AUGMENT), loader(augment=AUGMENT, workers=workers, cache=cache)
    for _ in range(2):
        assert [fingerprint(parts) for parts in plain] == [fingerprint(parts) for parts in other]


def test_workers_draw_nothing_from_the_process() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(loader(workers=1))
    assert torch.equal(before, torch.get_rng_state())


def test_augmentation_differs_between_epochs_and_seeds_but_not_between_splits_of_the_work() -> None:
    """R23: a sample's change depends on (seed, epoch, sample) alone."""

    def images(one: Loader) -> dict[int, torch.Tensor]:
        found = {}
        for parts in one:
            for part in parts:
                values = part.inputs["image"].values
                assert isinstance(values, torch.Tensor)
                found |= {int(row): values[place] for place, row in enumerate(part.ids) if part.valid[place]}
        return found

    one = loader(augment=AUGMENT)
    first, second = images(one), images(one)
    assert sum(not torch.equal(first[row], second[row]) for row in first) > 12
    other = images(loader(augment=AUGMENT, seed=4))
    assert sum(not torch.equal(first[row], other[row]) for row in first) > 12
    split = {}
    for rank in range(3):
        split |= images(loader(augment=AUGMENT, rank=rank, world=3, micro_batches=2, batch_size=7))
    assert all(torch.equal(first[row], split[row]) for row in first)


def test_evaluation_is_in_order_and_unchanged() -> None:
    batches = list(loader(9, training=False, augment=AUGMENT))
    assert [counted(parts) for parts in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    values = batches[0][0].inputs["image"].values
    assert isinstance(values, torch.Tensor)
    torch.testing.assert_close(values[1], torch.full((1, 6, 6), (1 / 255 - 0.5) / 0.5))


def test_bad_samples_are_skipped_counted_and_named() -> None:
    one = loader(bad=(2, 11), max_bad_samples=2)
    assert sorted(row for parts in one for row in counted(parts)) == [row for row in range(17) if row not in (2, 11)]
    assert one.bad == [("file 2", "damaged"), ("file 11", "damaged")]
    assert one.bad_count == 2


@pytest.mark.parametrize("cache", [Cache.MEMORY, Cache.NONE])
def test_each_bad_sample_is_told_once(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    one = loader(bad=(2, 11), cache=cache)
    for _ in range(2):
        list(one)
    assert sorted(capsys.readouterr().err.splitlines()) == ["train: file 11 is left out: damaged", "train: file 2 is left out: damaged"]
    many = loader(60, bad=tuple(range(30)), max_bad_samples=30, cache=cache)
    list(many)
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines), many.bad_count) == (20, 30)
    assert lines[-1].endswith("further ones are counted and not told")


def test_going_on_does_not_start_the_count_of_bad_samples_again() -> None:
    """R4, R5: what was met before the checkpoint still counts against the limit, and a state passes through JSON."""
    one = loader(bad=(2, 11), max_bad_samples=1, cache=Cache.NONE, training=False)  # batches of 4: file 2 is in the first, file 11 in the third
    next(iter(one))
    state = json.loads(json.dumps(one.state_dict()))
    again = loader(bad=(2, 11), max_bad_samples=1, cache=Cache.NONE, training=False)
    again.load_state_dict(state)
    assert again.bad == [("file 2", "damaged")]
    with pytest.raises(DataError, match="2 samples"):
        list(again)
    again.load_state_dict({"epoch": 0, "batch": 0})  # an evaluation begins anew: what it knows is still so
    assert again.bad_count == 2


def test_in_memory_all_ranks_decide_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """The limit does not depend on how many processes share the work."""
    for world in (1, 2):
        found = [loader(bad=(2, 11), rank=rank, world=world).bad for rank in range(world)]
        assert found == [[("file 2", "damaged"), ("file 11", "damaged")]] * world
        for rank in range(world):
            with pytest.raises(DataError, match="2 samples"):
                loader(bad=(2, 11), max_bad_samples=1, rank=rank, world=world)
        capsys.readouterr()
    loader(bad=(2,), rank=1, world=2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("cache", [Cache.MEMORY, Cache.NONE])
def test_past_the_limit_the_run_stops_with_the_list(cache: Cache) -> None:
    with pytest.raises(DataError, match=r"3 samples of the split 'train'.*max_bad_samples=2") as stopped:
        list(loader(bad=(2, 5, 11), max_bad_samples=2, cache=cache))
    assert all(f"file {row}: damaged" in str(stopped.value) for row in (2, 5, 11))


def test_the_same_bad_sample_counts_once_over_epochs() -> None:
    one = loader(bad=(2,), max_bad_samples=1, cache=Cache.NONE)
    for _ in range(3):
        list(one)
    assert len(one.bad) == 1


def test_a_transform_that_does_not_fit_the_data_is_told_before_the_first_batch() -> None:
    loader(augment={"drop": TokenDropout(replacement=258)})
    with pytest.raises(ConfigError, match=r"data\.augment\.drop: replacement=259 is no token of 'text', which has 259: 0 to 258"):
        loader(augment={"drop": TokenDropout(replacement=259)})


def test_nothing_readable_at_all() -> None:
    with pytest.raises(DataError, match="none of the 3 samples"):
        loader(3, bad=(0, 1, 2))


def test_a_row_that_cannot_be_read_has_one_real_position() -> None:
    parts = next(part for parts in loader(bad=(2,), cache=Cache.NONE) for part in parts if 2 in part.ids)
    row = parts.ids.tolist().index(2)
    mask = parts.inputs["text"].mask
    assert mask is not None
    assert (bool(parts.valid[row]), int(mask[row].sum())) == (False, 1)


def test_states_that_do_not_fit_are_refused() -> None:
    for state in ({"epoch": 0, "batch": 5}, {"epoch": -1, "batch": 0}, {"epoch": 0, "batch": -1}):
        with pytest.raises(CheckpointError, match="an epoch has 5"):
            loader().load_state_dict(state)


def test_buckets_need_lengths() -> None:
    with pytest.raises(ConfigError, match=r"data\.cache=memory"):
        loader(order=Order.BUCKETS, cache=Cache.NONE)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize(("size", "batch_size"), [(1, 4), (16, 4), (103, 8), (1000, 10)])
def test_orders_are_permutations(order: Order, size: int, batch_size: int) -> None:
    lengths = torch.arange(size) * 37 % 91
    orders = [
        epoch_order(size, order=order, seed=seed, epoch=epoch, batch_size=batch_size, lengths=lengths) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert all(sorted(found.tolist()) == list(range(size)) for found in orders)
    assert torch.equal(orders[0], orders[1])
    if order is not Order.SEQUENTIAL and size > 20:
        assert not torch.equal(orders[0], orders[2])
        assert not torch.equal(orders[0], orders[3])


def test_buckets_hold_similar_lengths() -> None:
    lengths = torch.arange(4000) * 37 % 101
    waste = {}
    for order in (Order.SHUFFLE, Order.BUCKETS):
        batches = lengths[epoch_order(4000, order=order, seed=0, epoch=0, batch_size=20, lengths=lengths)].view(-1, 20)
        waste[order] = float((batches.max(1).values[:, None] - batches).float().mean())
    assert waste[Order.BUCKETS] < 0.1 * waste[Order.SHUFFLE]


def test_permutations_are_even() -> None:
    """Each of 4 numbers comes first equally often: chi-square with 3 degrees of freedom, under its 99.9 % point."""
    first = torch.tensor([int(permutation(4, seed)[0]) for seed in range(2000)]).bincount(minlength=4)
    assert float(((first - 500) ** 2 / 500).sum()) < 16.27
