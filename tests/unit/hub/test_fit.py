"""``init_fit``: parameters of another size, against timm's own resampling, and rows by what they stand for."""

from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.build import create
from zoo.errors import CheckpointError
from zoo.hub.fit import Meaning, fits_of, fitted
from zoo.layers.fits import Fit
from zoo.specs import ClassTarget, DataSpec, TextInput


def vit(size: tuple[int, int], patch: int, *, channels: int = 3, pool: str = "cls") -> nn.Module:
    from zoo.specs import ImageInput

    spec = DataSpec(
        inputs=(ImageInput(name="image", channels=channels, height=size[0], width=size[1]),), targets=(ClassTarget(name="label", labels=("a", "b")),)
    )
    return create("vit", spec=spec, dim=24, depth=1, heads=2, patch_size=patch, pool=pool)


@pytest.mark.parametrize(("old", "new"), [((16, 16), (32, 32)), ((32, 32), (16, 16)), ((16, 32), (32, 16)), ((24, 24), (8, 24))])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_positions_are_interpolated_as_timm_does(old: tuple[int, int], new: tuple[int, int], pool: str) -> None:
    from timm.layers import resample_abs_pos_embed

    before, after = vit(old, 4, pool=pool), vit(new, 4, pool=pool)
    name = "encoder.positions.weight"
    module, fit = fits_of(after)[name]
    value, own = before.get_parameter(name).detach() * 50, after.get_parameter(name).detach()
    found = fitted(name, value, own, fit, module, Meaning(size=old), Meaning(size=new)).value
    reference = resample_abs_pos_embed(
        value[None], new_size=[new[0] // 4, new[1] // 4], old_size=[old[0] // 4, old[1] // 4], num_prefix_tokens=1 if pool == "cls" else 0
    )[0]
    torch.testing.assert_close(found, reference)
    if old == new[::-1] and old[0] != old[1]:
        with pytest.raises(CheckpointError, match="nobody knows"):
            fitted(name, value, own, fit, module, Meaning(), Meaning(size=new))


@pytest.mark.parametrize(("old", "new"), [(4, 8), (8, 4), (4, 6)])
def test_patches_are_resampled_as_timm_does(old: int, new: int) -> None:
    from timm.layers.patch_embed import resample_patch_embed

    before, after = vit((24, 24), old), vit((24, 24), new)
    name = "encoder.patches.proj.weight"
    module, fit = fits_of(after)[name]
    value = before.get_parameter(name).detach()
    found = fitted(name, value, after.get_parameter(name).detach(), fit, module, Meaning(), Meaning()).value
    reference = resample_patch_embed(value.view(24, 3, old, old), [new, new])
    torch.testing.assert_close(found, reference.flatten(1), rtol=1e-4, atol=1e-5)


def test_a_larger_patch_gives_what_the_smaller_one_gave() -> None:
    """FlexiViT's condition, on a patch resized by torch itself."""
    before, after = vit((24, 24), 4), vit((24, 24), 8)
    name = "encoder.patches.proj.weight"
    module, fit = fits_of(after)[name]
    value = before.get_parameter(name).detach()
    found = fitted(name, value, after.get_parameter(name).detach(), fit, module, Meaning(), Meaning()).value
    patch = torch.randn(5, 3, 4, 4)
    larger = torch.nn.functional.interpolate(patch, size=(8, 8), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(larger.flatten(1) @ found.T, patch.flatten(1) @ value.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("given", "channels"), [(3, 1), (1, 3)])
def test_grey_and_colour(given: int, channels: int) -> None:
    """A picture of three equal channels gives what its grey one does."""
    before, after = vit((8, 8), 4, channels=given), vit((8, 8), 4, channels=channels)
    name = "encoder.patches.proj.weight"
    module, fit = fits_of(after)[name]
    value = before.get_parameter(name).detach()
    found = fitted(name, value, after.get_parameter(name).detach(), fit, module, Meaning(), Meaning()).value
    grey = torch.randn(2, 1, 4, 4)
    as_given, as_wanted = grey.expand(-1, given, -1, -1).flatten(1), grey.expand(-1, channels, -1, -1).flatten(1)
    torch.testing.assert_close(as_wanted @ found.T, as_given @ value.T)


def test_rows_follow_their_entries() -> None:
    value, own = torch.arange(12.0).view(4, 3), torch.full((5, 3), -1.0)
    before, now = Meaning(vocabulary={"a": 0, "b": 1, "c": 2, "d": 3}), Meaning(vocabulary={"new": 0, "d": 1, "a": 2, "other": 3, "c": 4})
    result = fitted("encoder.embedding.weight", value, own, Fit.VOCABULARY, None, before, now)
    assert result.value[[1, 2, 4]].tolist() == value[[3, 0, 2]].tolist()
    assert result.value[0].tolist() == result.value[3].tolist() == value.mean(0).tolist()
    assert result.how == "3 entries of 4 by name, 2 new ones the mean of the old"
    classes = fitted(
        "head.classifier.bias", torch.tensor([5.0, 7.0]), torch.zeros(3), Fit.LABELS, None, Meaning(labels=["x", "y"]), Meaning(labels=["y", "z", "x"])
    )
    assert classes.value.tolist() == [7.0, 0.0, 5.0]
    with pytest.raises(CheckpointError, match="nobody knows which entries"):
        fitted("encoder.embedding.weight", value, own, Fit.VOCABULARY, None, Meaning(), now)


def test_places_of_a_sequence() -> None:
    value, own = torch.arange(12.0).view(4, 3), torch.full((6, 3), -1.0)
    assert fitted("p", value, own, Fit.POSITIONS, None, Meaning(), Meaning()).value.tolist() == [*value.tolist(), *own[4:].tolist()]
    assert fitted("p", value, own[:2], Fit.POSITIONS, None, Meaning(), Meaning()).value.tolist() == value[:2].tolist()


def test_only_the_declared_axis_may_differ() -> None:
    with pytest.raises(CheckpointError, match=r"\[4, 3\] cannot become \[4, 5\]"):
        fitted("encoder.positions.weight", torch.zeros(4, 3), torch.zeros(4, 5), Fit.POSITIONS, None, Meaning(), Meaning())


def test_components_say_what_can_be_fitted(tmp_path: Path) -> None:
    spec = DataSpec(inputs=(TextInput(name="text", vocab_size=30, max_length=8),), targets=(ClassTarget(name="label", labels=("a", "b")),))
    names = {name: fit for name, (_, fit) in fits_of(create("transformer_tiny", spec=spec)).items()}
    assert names == {
        "encoder.embedding.weight": Fit.VOCABULARY,
        "encoder.positions.weight": Fit.POSITIONS,
        "head.classifier.weight": Fit.LABELS,
        "head.classifier.bias": Fit.LABELS,
    }
