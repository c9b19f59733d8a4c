"""Learning rates by layer and by prefix."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from tests.tiny import make_model, make_trainer
from tests.unit.training.test_resume import stop_at
from zoo.build import assemble
from zoo.errors import ConfigError
from zoo.optim.groups import ParameterGroups
from zoo.optim.layers import layer_distances
from zoo.settings import GroupSettings
from zoo.specs import ClassTarget, DataSpec, ImageInput

SPEC = DataSpec(inputs=(ImageInput(name="image", channels=3, height=32, width=32),), targets=(ClassTarget(name="label", labels=tuple("0123456789")),))
VIT = {"name": "vit", "dim": 16, "depth": 5, "heads": 2, "patch_size": 8}
NAMES = {"patch_embed": "patches", "cls_token": "cls", "pos_embed": "positions", "attn": "attention"}


def build(encoder: dict[str, object]) -> nn.Module:
    with torch.device("meta"):
        return assemble(encoder, {"name": "none"}, {"name": "classification"}, SPEC)


def scales(model: nn.Module, settings: GroupSettings, weight_decay: float = 0.1) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = ParameterGroups(model, settings).split(weight_decay)
    return {names[id(parameter)]: (group["lr_scale"], group["weight_decay"]) for group in groups for parameter in group["params"]}


def test_the_layers_of_a_vit_are_timms() -> None:
    """Against timm.optim.param_groups_layer_decay on timm's ViT: rate and decay of every parameter."""
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=5, num_heads=2, num_classes=10)
    groups = param_groups_layer_decay(theirs, 0.1, no_weight_decay_list=theirs.no_weight_decay(), layer_decay=0.7)
    wanted: dict[str, set[tuple[float, float]]] = {}
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            first, *rest = [NAMES.get(part, part) for part in names[id(parameter)].split(".")]
            key = first if first != "blocks" else ".".join([first, *rest[:2]])
            wanted.setdefault(key if first == "head" else f"encoder.{key}", set()).add((group["lr_scale"], group["weight_decay"]))
    ours = scales(build(VIT), GroupSettings(layer_decay=0.7))
    for key, expected in wanted.items():
        found = {value for name, value in ours.items() if name == key or name.startswith(f"{key}.")}
        assert {(round(scale, 12), decay) for scale, decay in found} == {(round(scale, 12), decay) for scale, decay in expected}, key
    assert ours["encoder.patches.proj.weight"][0] == pytest.approx(0.7**6)


def test_a_model_of_timms_keeps_its_own_layers() -> None:
    theirs = timm.create_model("resnet18", num_classes=10)
    wanted = {parameter: group["lr_scale"] for group in param_groups_layer_decay(theirs, layer_decay=0.5) for parameter in group["params"]}
    names = {name: wanted[parameter] for name, parameter in theirs.named_parameters() if not name.startswith("fc.")}
    ours = scales(build({"name": "timm", "model": "resnet18"}), GroupSettings(layer_decay=0.5))
    assert {name: ours[f"encoder.model.{name}"][0] for name in names} == names
    assert all(scale == 1.0 for name, (scale, _) in ours.items() if name.startswith("head."))


def test_towers_side_by_side_are_counted_from_their_tops() -> None:
    class Tower(nn.Module):
        repeats = ("blocks",)

        def __init__(self, depth: int) -> None:
            super().__init__()
            self.stem, self.blocks = nn.Linear(2, 2), nn.ModuleList(nn.Linear(2, 2) for _ in range(depth))

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short, self.long, self.join = Tower(1), Tower(3), nn.Linear(4, 2)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder, self.head = Pair(), Tower(2), nn.Linear(2, 2)

    found = {name.removesuffix(".weight"): distance for name, distance in layer_distances(Whole()).items() if name.endswith(".weight")}
    assert found["head"] == 0
    assert (found["decoder.blocks.1"], found["decoder.blocks.0"], found["decoder.stem"]) == (1, 2, 3)
    assert found["encoder.join"] == 4
    assert (found["encoder.short.blocks.0"], found["encoder.short.stem"]) == (5, 6)
    assert [found[f"encoder.long.blocks.{number}"] for number in range(3)] == [7, 6, 5]
    assert found["encoder.long.stem"] == 8


def test_a_model_without_blocks_has_no_layers() -> None:
    with pytest.raises(ValueError, match="layer_decay: neither the encoder nor the decoder names its blocks"):
        ParameterGroups(make_model(), GroupSettings(layer_decay=0.9))


def test_overrides_by_the_longest_prefix() -> None:
    settings = GroupSettings(overrides={"head": {"lr_scale": 10.0}, "encoder": {"weight_decay": 0.0}, "encoder.mix": {"lr_scale": 0.5, "weight_decay": 0.3}})
    found = scales(make_model(), settings)
    assert found["head.row.weight"] == (10.0, 0.1)
    assert found["head.row.bias"] == (10.0, 0.0)
    assert found["encoder.mix.weight_ih_l0"] == (0.5, 0.3)
    assert found["encoder.mix.bias_ih_l0"] == (0.5, 0.0)
    assert found["encoder.table.weight"] == (1.0, 0.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"haed": {"lr_scale": 2.0}}, r"optimizer.overrides.haed: no parameter's name begins with 'haed'[\s\S]*did you mean 'head'"),
        ({"encoder.mx": {"lr_scale": 2.0}}, r"did you mean 'encoder.mix'"),
        ({"hea": {"lr_scale": 2.0}}, r"no parameter's name begins with 'hea'"),
    ],
)
def test_unknown_prefixes_are_refused(overrides: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ParameterGroups(make_model(), GroupSettings(overrides=overrides))


def test_one_step_with_scaled_rates_is_one_of_each_rate() -> None:
    """Each parameter's step is its share of the plain one. The rates are in the log, under the groups' names."""
    options: dict[str, object] = {"optimizer": "sgd", "max_steps": 4, "ema": None, "clip_norm": None, "log_every": 1}
    plain, scaled = make_trainer(**options), make_trainer(**options, groups={"head": {"lr_scale": 3.0}})
    before = {name: tensor.clone() for name, tensor in plain.model.state_dict().items()}
    for trainer in (plain, scaled):
        stop_at(trainer, 1)
        trainer.fit()
    for name, tensor in plain.model.state_dict().items():
        share = 3.0 if name.startswith("head.") else 1.0
        torch.testing.assert_close(scaled.model.state_dict()[name] - before[name], share * (tensor - before[name]), rtol=1e-4, atol=1e-7)
    row = scaled.log.rows[0][1]
    assert row["lr/head"] == pytest.approx(3 * row["lr"])
    assert row["lr/base"] == row["lr"] == plain.log.rows[0][1]["lr"]
    assert not any(name.startswith("lr/") for name in plain.log.rows[0][1])
