"""Adapters: peft's formula, exact merging, and nothing but them trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.tiny import make_model, make_trainer
from tests.unit.training.test_resume import everything, stop_at
from zoo.build import assemble
from zoo.data.fake import fake_batch
from zoo.errors import ConfigError
from zoo.layers.lora import add_lora, merged, remove_lora
from zoo.model import Model
from zoo.settings import LoraSettings
from zoo.specs import ClassTarget, DataSpec, ImageInput, TextInput
from zoo.structs import Values
from zoo.training.checkpoint import newest_checkpoint
from zoo.training.published import published_weights
from zoo.training.tensors import load_strictly

IMAGES = DataSpec(inputs=(ImageInput(name="image", channels=3, height=32, width=32),), targets=(ClassTarget(name="label", labels=tuple("0123456789")),))
TEXTS = DataSpec(inputs=(TextInput(name="text", vocab_size=50, max_length=12, pad_id=0),), targets=IMAGES.targets)
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"name": "vit", "dim": 16, "depth": 2, "heads": 2, "patch_size": 8},
    "cnn": {"name": "cnn"},
    "mlp": {"name": "mlp"},
    "timm": {"name": "timm", "model": "test_vit"},
    "transformer": {"name": "transformer", "dim": 16, "depth": 2, "heads": 2},
}


def build(name: str) -> tuple[Model, Any]:
    torch.manual_seed(1)
    spec = TEXTS if name == "transformer" else IMAGES
    model = assemble(ENCODERS[name], {"name": "none"}, {"name": "classification"}, spec)
    return model.double().eval(), fake_batch(spec, 3)


def logits(model: Model, batch: Any) -> torch.Tensor:
    (name, given), *_ = batch.inputs.items()
    values = given.values.double() if given.values.is_floating_point() else given.values
    return model({name: Values(values, given.mask)})["logits"].detach()


@pytest.mark.parametrize("name", ENCODERS)
def test_merged_weights_give_the_same_outputs(name: str) -> None:
    """In fp64 to 1e-12, into a plain model that is built and loaded strictly, as a bundle is; and untrained adapters change nothing."""
    model, batch = build(name)
    plain = logits(model, batch)
    found = add_lora(model, LoraSettings(rank=3, alpha=5.0))
    assert found
    assert torch.equal(logits(model, batch), plain)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    adapted = logits(model, batch)
    assert (adapted - plain).abs().max() > 1e-3
    other, _ = build(name)
    state = merged(model.state_dict())
    load_strictly(other.state_dict(), state, "merged")
    assert (logits(other, batch) - adapted).abs().max() < 1e-12 * max(1.0, float(adapted.abs().max()))
    remove_lora(model)
    assert [type(module) for module in model.modules()] == [type(module) for module in other.modules()]
    load_strictly(model.state_dict(), state, "merged")
    assert torch.equal(logits(model, batch), logits(other, batch))


@pytest.mark.parametrize(
    ("layer", "x"),
    [(nn.Linear(6, 5), torch.randn(2, 7, 6)), (nn.Conv1d(6, 5, 3, stride=2), torch.randn(2, 6, 9)), (nn.Conv2d(6, 5, 3, padding=1), torch.randn(2, 6, 9, 8))],
    ids=["linear", "conv1d", "conv2d"],
)
def test_the_formula_of_peft(layer: nn.Module, x: torch.Tensor) -> None:
    """``result = base(x) + lora_B(lora_A(x)) * (alpha / r)`` with layers of torch's, as peft/tuners/lora/layer.py builds them."""
    plain: Any = layer.double()
    model = nn.ModuleDict({"encoder": nn.ModuleList([plain])})
    x = x.double()
    base = plain(x)
    add_lora(model, LoraSettings(rank=2, alpha=6.0, targets=["encoder.0"]))
    nn.init.normal_(plain.lora_b)
    if isinstance(plain, nn.Linear):
        low, high = nn.Linear(6, 2, bias=False).double(), nn.Linear(2, 5, bias=False).double()
    else:
        kind: Any = nn.Conv1d if isinstance(plain, nn.Conv1d) else nn.Conv2d
        low, high = kind(6, 2, plain.kernel_size, plain.stride, plain.padding, bias=False).double(), kind(2, 5, 1, bias=False).double()
    low.weight.data, high.weight.data = plain.lora_a.data, plain.lora_b.data
    torch.testing.assert_close(plain(x), base + high(low(x)) * (6.0 / 2), rtol=1e-13, atol=1e-13)
    bound = 1 / (x.shape[-1] if isinstance(plain, nn.Linear) else 6 * plain.weight[0, 0].numel()) ** 0.5
    assert float(plain.lora_a.detach().abs().max()) <= bound  # peft: kaiming_uniform_(a=sqrt(5))


def test_dropout_is_on_the_adapters_input_only() -> None:
    model = nn.ModuleDict({"encoder": nn.ModuleList([nn.Linear(400, 3)])}).train()
    layer: Any = model["encoder"][0]  # type: ignore[index]
    add_lora(model, LoraSettings(rank=2, dropout=0.5))
    nn.init.normal_(layer.lora_b)
    x = torch.ones(1, 400)
    torch.manual_seed(0)
    found = layer(x)
    torch.manual_seed(0)
    expected = F.linear(x, layer.weight, layer.bias) + 8.0 * F.linear(F.linear(F.dropout(x, 0.5), layer.lora_a), layer.lora_b)
    torch.testing.assert_close(found, expected)


def test_only_adapters_and_the_head_are_trained() -> None:
    model, _ = build("vit")
    add_lora(model, LoraSettings(rank=2, targets=["encoder.blocks.*.attention.qkv"]))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {f"encoder.blocks.{block}.attention.qkv.lora_{part}" for block in range(2) for part in "ab"}
    assert trained == adapters | {name for name, _ in model.named_parameters() if name.startswith("head.")}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["encoder.blocks.*.attn.qkv"], r"model.lora.targets\[0\]: 'encoder.blocks.\*.attn.qkv' matches none of the model's 10 linear and convolutional"),
        (["encoder.*", "encoder.blocks.0.attention.qvk"], r"model.lora.targets\[1\][\s\S]*did you mean 'encoder.blocks.0.attention.qkv'"),
        (["encoder.positions"], "matches none"),
        ([], "names no layer"),
    ],
)
def test_wrong_targets_are_refused(targets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        add_lora(build("vit")[0], LoraSettings(rank=2, targets=targets))


def test_a_run_with_adapters_goes_on_exactly_and_publishes_averages(tmp_path: Path) -> None:
    """R4 with EMA: stopped after a step it ends in the same bits; what is published is plain, and is the averages merged."""

    def trainer(folder: Path) -> Any:
        model = make_model(0.2)
        torch.manual_seed(5)
        add_lora(model, LoraSettings(rank=2, dropout=0.2, targets=["head.row"]))
        return make_trainer(folder, model=model, checkpoint_every=5)

    whole = trainer(tmp_path / "whole")
    base = whole.model.head.row.weight.clone()
    whole.fit()
    assert torch.equal(whole.model.head.row.weight, base)
    assert whole.model.head.position.weight.requires_grad
    assert float(whole.model.head.row.lora_b.detach().abs().max()) > 0
    first, second = trainer(tmp_path / "cut"), trainer(tmp_path / "cut")
    stop_at(first, 7)
    first.fit()
    second.load(newest_checkpoint(tmp_path / "cut")[0])
    second.fit()
    found, wanted = everything(second), everything(whole)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert len(found) == len(wanted)
    checkpoint = newest_checkpoint(tmp_path / "whole")[0]
    assert checkpoint is not None
    published, averages = published_weights(checkpoint), whole.step.ema.average
    assert set(published) == set(make_model().state_dict())
    expected = base + 8.0 * averages["head.row.lora_b"] @ averages["head.row.lora_a"]
    torch.testing.assert_close(published["head.row.weight"], expected)
