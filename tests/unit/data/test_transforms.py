"""Random transforms: keyed by sample, batched or not, and what each may and may not change."""

import pytest
import torch

from zoo.data.base import Transform
from zoo.data.transforms.colour import ColorJitter, RandomAffine, SpecAugment, TokenDropout
from zoo.data.transforms.crop import Border, Cutout, RandomCrop, RandomErasing, RandomFlip
from zoo.data.transforms.vision import AutoAugment, Policy, RandAugment, TrivialAugment
from zoo.random import SampleRandom
from zoo.registry import TRANSFORMS
from zoo.structs import Values

IDS = torch.tensor([5, 900, 2, 71, 33, 8])
MASK = torch.arange(30) < torch.tensor([30, 25, 1, 13, 30, 7])[:, None]


def example(kind: str, channels: int = 3) -> Values:
    generator = torch.Generator().manual_seed(0)
    if kind == "image":
        return Values(torch.randint(0, 256, (6, channels, 12, 10), dtype=torch.uint8, generator=generator))
    if kind == "text":
        return Values(torch.randint(5, 90, (6, 30), generator=generator).masked_fill(~MASK, 0), MASK)
    return Values(torch.randn(6, 16, 30, generator=generator).masked_fill(~MASK[:, None], 0), MASK)


def rows(values: Values, chosen: list[int]) -> Values:
    return values.apply(lambda tensor: tensor[chosen])


def tensor(values: Values) -> torch.Tensor:
    assert isinstance(values.values, torch.Tensor)
    return values.values


@pytest.mark.parametrize("name", TRANSFORMS.names())
def test_a_sample_is_changed_alike_in_any_batch(name: str) -> None:
    """R23: alone, in another order, in another epoch."""
    transform: Transform = TRANSFORMS.build(TRANSFORMS.check_node({"name": name}, "data.augment.x"), "data.augment.x")
    values = example(transform.input_kind)
    whole = transform(values, SampleRandom(1, 0, IDS))
    assert whole.mask is values.mask or torch.equal(whole.mask, values.mask)  # type: ignore[arg-type]
    assert (tensor(whole).shape, tensor(whole).dtype) == (tensor(values).shape, tensor(values).dtype)
    order = [3, 1, 5, 0]
    assert torch.equal(tensor(transform(rows(values, order), SampleRandom(1, 0, IDS[order]))), tensor(whole)[order])
    for row in range(6):
        assert torch.equal(tensor(transform(rows(values, [row]), SampleRandom(1, 0, IDS[row : row + 1]))), tensor(whole)[row : row + 1])
    later = [tensor(transform(values, SampleRandom(1, epoch, IDS))) for epoch in range(1, 5)]
    assert any(not torch.equal(tensor(whole), other) for other in later)


@pytest.mark.parametrize("name", TRANSFORMS.names())
def test_the_process_s_generator_is_left_alone(name: str) -> None:
    transform: Transform = TRANSFORMS.build(TRANSFORMS.check_node({"name": name}, "data.augment.x"), "data.augment.x")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    source = example(transform.input_kind)
    kept = tensor(source).clone()
    transform(source, SampleRandom(1, 0, IDS))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(kept, tensor(source))  # the loader's own memory is not written to


@pytest.mark.parametrize(
    "transform", [RandomAffine(), ColorJitter(), RandAugment(), TrivialAugment(), AutoAugment(policy=Policy.CIFAR10), RandomCrop(border=Border.REFLECT)]
)
def test_grey_images_pass_too(transform: Transform) -> None:
    assert tensor(transform(example("image", 1), SampleRandom(1, 0, IDS))).shape == (6, 1, 12, 10)


def many(count: int = 4000) -> SampleRandom:
    return SampleRandom(7, 0, torch.arange(count))


def test_flips_happen_as_often_as_asked() -> None:
    images = torch.tensor([[0, 1]], dtype=torch.uint8).expand(4000, 1, 1, 2)
    for probability in (0.0, 0.3, 1.0):
        flipped = tensor(RandomFlip(probability=probability)(Values(images), many()))[:, 0, 0, 0].float().mean()
        assert abs(float(flipped) - probability) < 0.03  # 4 standard deviations


def test_crops_reach_every_place_equally_often() -> None:
    images = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(4000, -1, -1, -1)
    centres = tensor(RandomCrop(padding=1)(Values(images), many()))[:, 0, 1, 1].long().bincount(minlength=10)[1:]
    assert float(((centres - 4000 / 9) ** 2 / (4000 / 9)).sum()) < 26.1  # chi-square, 8 degrees of freedom, 99.9 %


def test_erased_areas_are_as_asked() -> None:
    images = torch.full((4000, 1, 32, 32), 9, dtype=torch.uint8)
    part = (tensor(RandomErasing(probability=0.5, area=(0.1, 0.2), aspect=(0.5, 2.0))(Values(images), many())) == 0).float().mean((1, 2, 3))
    assert abs(float((part > 0).float().mean()) - 0.5) < 0.035
    assert 0.08 < float(part[part > 0].min()) < float(part.max()) < 0.23


def test_cutout_is_a_square_that_may_leave_the_image() -> None:
    images = torch.full((4000, 1, 16, 16), 9, dtype=torch.uint8)
    blank = tensor(Cutout(size=6, value=1)(Values(images), many())) == 1
    assert int(blank.sum((1, 2, 3)).max()) == 36
    assert int(blank.sum((1, 2, 3)).min()) == 9


def test_spec_augment_blanks_only_what_is_real() -> None:
    values = example("spectrogram")
    done = tensor(SpecAugment(time_part=0.5)(values, SampleRandom(2, 0, IDS)))
    changed = done != tensor(values)
    assert changed.any()
    assert not changed[~MASK[:, None].expand_as(changed)].any()
    assert float((changed.any(1).sum(1) / MASK.sum(1))[0]) <= 1


def test_token_dropout_keeps_the_first_and_the_padding() -> None:
    values = example("text")
    done = tensor(TokenDropout(probability=0.9, replacement=1)(values, SampleRandom(2, 0, IDS)))
    assert torch.equal(done[:, 0], tensor(values)[:, 0])
    assert done[~MASK].eq(0).all()
    assert float((done == 1).sum() / MASK[:, 1:].sum()) > 0.7


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("random_crop", {"padding": 0}),
        ("random_flip", {"probability": 1.5}),
        ("random_erasing", {"area": [0.5, 0.1]}),
        ("random_erasing", {"value": 256}),
        ("cutout", {"size": 0}),
        ("color_jitter", {"contrast": 2.0}),
        ("random_affine", {"scale": [0.0, 1.0]}),
        ("spec_augment", {"time_part": 2.0}),
        ("rand_augment", {"magnitude": 31}),
        ("token_dropout", {"replacement": -1}),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, object]) -> None:
    node = TRANSFORMS.check_node({"name": name, **options}, "data.augment.x")
    with pytest.raises(ValueError, match=r"data\.augment\.x.*" + next(iter(options))):
        TRANSFORMS.build(node, "data.augment.x")
