"""Batches by cost: every sample once, within the budget, as many batches in each epoch, the same for any split of the work."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from tests.unit.data.test_loader import AUGMENT, counted, fingerprint
from zoo.data.base import OpenData
from zoo.data.budget import Budget
from zoo.data.codecs.audio import AudioCodec
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.loader import Loader
from zoo.data.order import Planner, by_length, split_evenly
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.errors import CheckpointError, ConfigError
from zoo.random import SampleRandom
from zoo.settings import BatchPacking, Cache, LoaderSettings, Order
from zoo.structs import Batch


def skewed(size: int, seed: int = 0, longest: int = 300) -> torch.Tensor:
    """Lengths as sentences have them: many short ones, few long ones."""
    uniform = SampleRandom(seed, 0, torch.arange(size)).uniform("lengths", 1)[:, 0].double()
    return (3 * (1 - uniform).pow(-0.8)).long().clamp(1, longest)


def planner(lengths: torch.Tensor, limit: float, order: Order, packed: bool, batch_size: int = 10_000, seed: int = 0) -> tuple[Planner, Budget]:
    budget = Budget(limit, lengths.double().view(len(lengths), -1), packed)
    return Planner(len(lengths), order=order, seed=seed, batch_size=batch_size, lengths=lengths.view(len(lengths), -1), budgets=[budget]), budget


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize(("size", "limit"), [(1, 5), (7, 2), (40, 100), (500, 256), (3000, 1000)])
def test_each_sample_once_within_the_budget(order: Order, packed: bool, size: int, limit: int) -> None:
    """And every epoch has as many batches, so that the run's length is exact; only a sample that is over the budget by itself exceeds it, alone."""
    lengths = skewed(size, longest=30 if order is Order.SHUFFLE else 300)
    plans, budget = planner(lengths, limit, order, packed)
    epochs = [plans.plan(epoch) for epoch in range(4)]
    for plan in epochs:
        assert len(plan) == plans.steps
        assert sorted(plan.order.tolist()) == list(range(size))
        for batch in range(len(plan)):
            rows = plan.rows(batch)
            assert len(rows) > 0
            assert budget.cost(rows) <= limit or len(rows) == 1
    again = planner(lengths, limit, order, packed)[0].plan(2)
    assert torch.equal(again.order, epochs[2].order)
    assert again.bounds == epochs[2].bounds
    if order is not Order.SEQUENTIAL and size == 500:
        assert not torch.equal(epochs[0].order, epochs[1].order)
        assert not torch.equal(epochs[0].order, planner(lengths, limit, order, packed, seed=1)[0].plan(0).order)
        first = [{*epochs[epoch].rows(batch).tolist()} for epoch in (0, 1) for batch in range(plans.steps)]
        assert sum(rows in first[plans.steps :] for rows in first[: plans.steps]) < 0.3 * plans.steps  # other companions, not only another order


def test_the_number_of_samples_is_a_limit_too() -> None:
    for order in Order:
        for packed in (False, True):
            plan = planner(skewed(300, longest=20), 400, order, packed, batch_size=8)[0].plan(0)
            assert max(len(plan.rows(batch)) for batch in range(len(plan))) == 8


def test_buckets_waste_little_and_packed_batches_are_full() -> None:
    lengths = skewed(5000)
    useful = float(lengths.sum())
    plans, budget = planner(lengths, 1000, Order.BUCKETS, packed=False)
    plan = plans.plan(0)
    assert sum(budget.cost(plan.rows(batch)) for batch in range(len(plan))) < 1.2 * useful
    random = planner(lengths, 1000, Order.SEQUENTIAL, packed=False)[0].plan(0)
    assert sum(budget.cost(random.rows(batch)) for batch in range(len(random))) > 3 * useful
    plans, budget = planner(lengths, 4000, Order.SHUFFLE, packed=True)
    plan = plans.plan(0)
    costs = [budget.cost(plan.rows(batch)) for batch in range(len(plan))]
    assert plans.steps <= 1.1 * useful / 4000 + 1
    assert max(costs) - min(costs) <= 300  # strata: no two batches differ by more than the longest sample


def test_buckets_of_two_inputs_are_tight_in_both() -> None:
    """Text and sound whose lengths have nothing to do with each other."""
    lengths = torch.stack([skewed(6000, 1), skewed(6000, 2)], dim=1)

    def slots(plan: Any) -> float:
        return sum(len(rows) * int(lengths[rows].amax(dim=0).sum()) for rows in map(plan.rows, range(len(plan)))) / float(lengths.sum())

    both = Planner(6000, order=Order.BUCKETS, seed=0, batch_size=16, lengths=lengths).plan(0)
    one = Planner(6000, order=Order.BUCKETS, seed=0, batch_size=16, lengths=lengths[:, :1]).plan(0)
    assert sorted(both.order.tolist()) == list(range(6000))
    assert slots(both) < 0.5 * slots(one)
    budgeted = planner(lengths, 2000, Order.BUCKETS, packed=False)[0].plan(0)
    assert slots(budgeted) < 0.4 * slots(one)


def test_by_length_of_one_input_is_a_sort() -> None:
    lengths = skewed(100)
    assert torch.equal(by_length(lengths, 10), lengths.argsort(stable=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_parts_cost_the_same(packed: bool, parts: int) -> None:
    for size in (1, 2, 7, 64):
        costs = skewed(size, seed=size).double()
        found = split_evenly(costs, size, parts, packed=packed)
        assert len(found) == parts
        assert sorted(torch.cat(found).tolist()) == list(range(size))
        assert sum(len(part) == 0 for part in found) == max(0, parts - size)
        dear = [float(costs[part].sum() if packed else len(part) * costs[part].max()) for part in found if len(part)]
        blind = [float(costs[part].sum() if packed else len(part) * costs[part].max()) for part in split_evenly(None, size, parts, packed=packed) if len(part)]
        if packed:
            assert max(dear) - min(dear) <= float(costs.max()) + 1e-9 or size < parts
        else:
            assert max(dear) <= max(max(blind), float(costs.max())) + 1e-9


SIZE = 23


# --- in the loader ----------------------------------------------------------------------------------------------------------------


@dataclass
class Clips:
    """A text and a sound of unequal lengths, and an image."""

    size: int

    def __len__(self) -> int:
        return self.size

    def read(self, index: int) -> Mapping[str, Any]:
        wave = torch.sin(torch.arange(800 + 800 * (index * 5 % 11)) * 0.01 * (1 + index % 7))
        image = torch.full((1, 6, 6), index % 256, dtype=torch.uint8)
        return {"text": "x" * (index * 7 % 23), "image": image, "sound": (wave, 8000), "label": "ab"[index % 2]}

    def describe(self, index: int) -> str:
        return f"clip {index}"


class Remembering(AudioCodec):
    """Its spectrograms are computed once for all tests."""

    known: ClassVar[dict[tuple[int, float], Any]] = {}

    def encode(self, raw: Any) -> Any:
        key = (len(raw[0]), float(raw[0][1]))
        if key not in self.known:
            self.known[key] = super().encode(raw)
        return self.known[key]


TEXT = TextCodec(name="text", tokenizer=ByteTokenizer(), max_length=20)
IMAGE = ImageCodec(name="image", channels=1, size=(6, 6))
SOUND = Remembering(name="sound", sample_rate=8000, n_mels=8, max_seconds=2.0)
ALL = {"text": TEXT, "image": IMAGE, "sound": SOUND}


def loader(size: int = SIZE, *, training: bool = True, inputs: Mapping[str, Any] = ALL, batch_size: int = 100, augment: Any = None, **rest: Any) -> Loader:
    keys = {key: rest.pop(key) for key in ("rank", "world", "micro_batches") if key in rest}
    data = OpenData(
        inputs=dict(inputs), targets={"label": ClassCodec(name="label", labels=("a", "b"))}, splits={"train": Only(Clips(size), [*inputs]), "test": Clips(size)}
    )
    return Loader(
        data=data,
        split="train" if training else "test",
        settings=LoaderSettings(**rest),
        augment=augment or {},
        seed=3,
        training=training,
        batch_size=batch_size,
        **keys,
    )


@dataclass
class Only:
    clips: Clips
    names: list[str]

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int) -> Mapping[str, Any]:
        return self.clips.read(index)

    def describe(self, index: int) -> str:
        return self.clips.describe(index)


CHOICES: list[dict[str, Any]] = [
    {"batch_tokens": 90, "order": Order.BUCKETS},
    {"batch_pixels": 180, "order": Order.SHUFFLE},
    {"batch_tokens": 90, "packing": BatchPacking.FLAT},
    {"batch_tokens": 90, "batch_seconds": 4.5, "order": Order.BUCKETS},
    {"batch_seconds": 4.5, "packing": BatchPacking.FLAT, "batch_pixels": 180},
    {"packing": BatchPacking.FLAT, "batch_size": 6},
    {"batch_tokens": 60, "order": Order.SEQUENTIAL},
]
each_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(f"{key}={value}" for key, value in choice.items()))


def spent(parts: list[Batch]) -> dict[str, float]:
    """Tokens, seconds and pixels that one process would see of a batch."""
    found = {"batch_tokens": 0.0, "batch_seconds": 0.0, "batch_pixels": 0.0}
    for part in parts:
        slots = {name: values.values.shape[0] * values.values.shape[-1] for name, values in part.inputs.items() if isinstance(values.values, torch.Tensor)}
        found["batch_tokens"] += slots["text"]
        found["batch_seconds"] += slots["sound"] / SOUND.spec.frame_rate
        found["batch_pixels"] += part.size * 36
    return found


@each_choice
def test_batches_of_the_loader_keep_to_the_budgets(choice: dict[str, Any]) -> None:
    one = loader(**choice)
    for _ in range(2):
        batches = list(one)
        assert len(batches) == one.steps_per_epoch
        assert sorted(row for parts in batches for row in counted(parts)) == list(range(SIZE))
        for parts in batches:
            assert all(spent(parts)[name] <= choice[name] + 1e-6 for name in choice if name in ("batch_tokens", "batch_seconds", "batch_pixels"))


@each_choice
def test_budgeted_batches_are_the_same_for_any_split_of_the_work(choice: dict[str, Any]) -> None:
    """R3, R7: 1, 2, 3 ranks, 1 and 2 micro-batches: the same samples in each step, as many steps on each rank, no empty part."""
    steps = [sorted(counted(parts)) for parts in loader(**choice)]
    for world in (2, 3):
        ranks = [list(loader(world=world, rank=rank, micro_batches=2, **choice)) for rank in range(world)]
        assert {len(batches) for batches in ranks} == {len(steps)}
        assert [sorted(row for batches in ranks for row in counted(batches[step])) for step in range(len(steps))] == steps
        assert all(part.size > 0 for batches in ranks for parts in batches for part in parts)


@each_choice
def test_budgeted_batches_go_on_from_any_batch(choice: dict[str, Any]) -> None:
    """R4: over the boundary of an epoch too, to the bit."""
    whole, prints, states = loader(augment=AUGMENT, **choice), [], []
    for _ in range(2):
        states.append(whole.state_dict())
        for parts in whole:
            prints.append(fingerprint([part.rows(0, part.size) for part in parts]))
            states.append(whole.state_dict())
        states.pop()
    again = loader(augment=AUGMENT, **choice)
    for place, state in enumerate(states):
        again.load_state_dict(state)
        assert [fingerprint([part.rows(0, part.size) for part in parts]) for _ in range(2 - state["epoch"]) for parts in again] == prints[place:]


def test_packed_batches_hold_what_padded_ones_do() -> None:
    """The same plan without budgets: unpacked, a packed batch is the padded one, augmentation included."""
    packed, padded = loader(packing=BatchPacking.FLAT, augment=AUGMENT, batch_size=6), loader(augment=AUGMENT, batch_size=6)
    for ours, theirs in zip(packed, padded, strict=True):
        values = ours[0].inputs["text"]
        assert values.packing is not None
        assert isinstance(values.values, torch.Tensor)
        assert tuple(values.values.shape) == (1, int(theirs[0].inputs["text"].mask.sum()))  # type: ignore[union-attr]
        back, rows = ours[0].rows(0, 6), theirs[0]
        order = torch.argsort(ours[0].ids)[torch.argsort(torch.argsort(rows.ids))]
        for name, expected in rows.inputs.items():
            found = back.inputs[name].apply(lambda tensor, order=order: tensor[order])  # type: ignore[misc]
            assert isinstance(expected.values, torch.Tensor)
            assert isinstance(found.values, torch.Tensor)
            if name == "text":
                assert expected.mask is not None
                assert found.mask is not None
                assert torch.equal(found.mask, expected.mask)
                assert torch.equal(found.values, expected.values.masked_fill(~expected.mask, 0))
            else:
                assert torch.equal(found.values, expected.values)


def test_evaluation_keeps_to_twice_the_budget_in_order() -> None:
    one = loader(training=False, batch_tokens=60, order=Order.BUCKETS)
    batches = list(one)
    assert [row for parts in batches for row in counted(parts)] == list(range(SIZE))
    assert 60 < max(spent(parts)["batch_tokens"] for parts in batches) <= 120


@pytest.mark.parametrize(
    ("inputs", "choice", "message"),
    [
        ({"image": IMAGE}, {"batch_tokens": 9}, r"data\.batch_tokens: it counts text or a history, and the model takes image \(image\)"),
        ({"text": TEXT}, {"batch_tokens": 99}, r"data\.order: data\.batch_tokens with padded rows in random order"),
        ({"text": TEXT}, {"batch_seconds": 9.0}, r"data\.batch_seconds: it counts sound"),
        ({"text": TEXT}, {"batch_pixels": 9}, r"data\.batch_pixels: it counts images"),
        (
            {"text": TEXT},
            {"batch_tokens": 9, "cache": Cache.NONE, "packing": BatchPacking.FLAT},
            r"data\.batch_tokens: a budget needs the length of every sample",
        ),
        ({"image": IMAGE}, {"packing": BatchPacking.FLAT}, r"data\.packing: the samples have one shape"),
    ],
)
def test_refusals(inputs: dict[str, Any], choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        loader(inputs=inputs, **choice)
    assert "way out" in str(told.value)


def test_packing_needs_no_lengths_beforehand() -> None:
    kept, read = (
        loader(packing=BatchPacking.FLAT, batch_size=7, inputs={"text": TEXT}),
        loader(packing=BatchPacking.FLAT, batch_size=7, inputs={"text": TEXT}, cache=Cache.NONE),
    )
    assert [counted(parts) for parts in kept] != []
    assert [sorted(counted(parts)) for parts in loader(packing=BatchPacking.FLAT, batch_size=7, inputs={"text": TEXT})] == [sorted(counted(p)) for p in read]


@pytest.mark.parametrize(("key", "value"), [("batch_tokens", 0), ("batch_seconds", 0.0), ("batch_pixels", -3)])
def test_settings_refuse_budgets_that_hold_nothing(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key}"):
        LoaderSettings(**{key: value}).check()


def test_workers_make_the_same_budgeted_batches() -> None:
    """R23."""
    choice: dict[str, Any] = {"batch_tokens": 90, "packing": BatchPacking.FLAT, "augment": AUGMENT}
    one, other = loader(**choice), loader(workers=2, **choice)
    for _ in range(2):
        assert [fingerprint([p.rows(0, p.size) for p in parts]) for parts in one] == [fingerprint([p.rows(0, p.size) for p in parts]) for parts in other]


def test_a_cursor_past_the_plan_is_refused() -> None:
    one = loader(batch_tokens=90, order=Order.BUCKETS)
    with pytest.raises(CheckpointError, match="does not fit"):
        one.load_state_dict({"epoch": 0, "batch": one.steps_per_epoch})
