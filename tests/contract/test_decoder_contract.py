"""The contract of decoders, over every registered name: those of features alone, and those that write a text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.contract.cases import FEATURES, fake_features, map_features, randomised
from zoo.build import writes
from zoo.errors import ConfigError
from zoo.layers.dropout import name_randomness
from zoo.presets import conf_dir
from zoo.random import SampleRandom, sample_randomness
from zoo.registry import DECODERS
from zoo.specs import FeatureSpec, Layout, WrittenInput
from zoo.structs import Features, Values

WRITTEN = WrittenInput(name="written", vocab_size=31, max_length=30)
SOURCE_LENGTHS, LENGTHS = [5, 9, 1, 7], [6, 1, 8, 3]
KINDS = {
    "plain": {},
    "sinusoidal, post": {"positions": "sinusoidal", "placement": "post"},
    "rotary, shared keys": {"positions": "rotary", "kv_heads": 1, "heads": 2, "activation": "swiglu", "norm": "rms", "biases": "none"},
    "relative": {"positions": "relative", "scores": "plain", "head_dim": 5, "relative_buckets": 6, "relative_distance": 10},
    "wider than its source": {"dim": 20, "embedding_norm": "after", "embedding_scale": "sqrt"},
}
each = pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in DECODERS.names() for options in {"transformer": [*KINDS.values()], "gru": [{}, {"depth": 2, "dim": 20}]}.get(name, [{}])],
    ids=lambda value: value if isinstance(value, str) else ", ".join(map(str, value.values())) or "default",
)


def build(name: str, features: FeatureSpec = FEATURES["sequence"], seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    if name == "transformer":
        options = {"depth": 2, "heads": 2} | options
    node = DECODERS.check_node({"name": name} | options, "model.decoder")
    wired = {parameter.name: WRITTEN if "WrittenInput" in parameter.specs else features for parameter in DECODERS.schema(name).wired}
    decoder = DECODERS.build(node, "model.decoder", **wired)
    name_randomness(decoder)
    return decoder


def given(dtype: torch.dtype = torch.float64) -> tuple[Features, Values]:
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    torch.manual_seed(1)
    ids = torch.randint(1, WRITTEN.vocab_size, mask.shape).masked_fill(~mask, WRITTEN.pad_id)
    return fake_features(FEATURES["sequence"], SOURCE_LENGTHS, dtype), Values(ids, mask)


def run(decoder: Any, name: str, features: Features, written: Values) -> Features:
    found: Features = decoder(features, written) if writes(name) else decoder(features)
    return found


@pytest.mark.parametrize("name", [name for name in DECODERS.names() if name != "none"])
def test_is_documented_and_has_a_tiny_preset(name: str) -> None:
    schema = DECODERS.schema(name)
    assert schema.summary.endswith(".")
    assert not [option.name for option in schema.options if not option.doc], "options without a line under Args:"
    assert (conf_dir() / f"model/decoder/{name}_tiny.yaml").read_text().startswith("# ")


@each
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_declared_is_measured(name: str, options: dict[str, Any], device: str) -> None:
    with torch.device(device):
        decoder = build(name, **options)
    features, written = given(torch.float32)
    found = run(decoder, name, map_features(features, lambda part: part.to(device)), written.apply(lambda part: part.to(device)))
    assert found.tokens is not None
    lengths = (max(LENGTHS) if writes(name) else max(SOURCE_LENGTHS), decoder.output_spec.dim)
    assert tuple(found.tokens.shape[1:]) == lengths
    assert decoder.output_spec.causal is writes(name)


@each
def test_neither_padding_nor_mates_change_anything(name: str, options: dict[str, Any]) -> None:
    decoder = randomised(build(name, **options).double()).eval()
    features, written = given()
    found = run(decoder, name, features, written).tokens
    assert found is not None
    assert isinstance(written.values, Tensor)
    for place, (source, length) in enumerate(zip(SOURCE_LENGTHS, LENGTHS, strict=True)):
        assert features.tokens is not None
        alone = Features(tokens=features.tokens[place : place + 1, :source])
        own = run(decoder, name, alone, Values(written.values[place : place + 1, :length])).tokens
        assert own is not None
        torch.testing.assert_close(found[place : place + 1, : own.shape[1]], own, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_place_sees_all_of_the_source_and_what_was_written_before(options: dict[str, Any]) -> None:
    decoder = randomised(build("transformer", **options).double()).eval()
    features, written = given()
    assert isinstance(written.values, Tensor)
    assert features.tokens is not None
    found = decoder(features, written).tokens
    other = written.values.clone()
    other[0, 3] = other[0, 3] % 30 + 1
    change = (decoder(features, Values(other, written.mask)).tokens - found).abs().amax(-1)[0]
    assert not bool(change[:3].any())
    assert bool((change[3 : LENGTHS[0]] > 1e-9).all())
    tokens = features.tokens.clone()
    tokens[0, SOURCE_LENGTHS[0] - 1] += 1
    change = (decoder(replace(features, tokens=tokens), written).tokens - found).abs().amax(-1)[0]
    assert bool((change[: LENGTHS[0]] > 1e-9).all())


@each
def test_every_parameter_gets_a_gradient(name: str, options: dict[str, Any]) -> None:
    decoder = randomised(build(name, **options))
    features, written = given(torch.float32)
    tokens = run(decoder, name, features, written).tokens
    assert tokens is not None
    if not list(decoder.parameters()):
        return
    (tokens * torch.randn(tokens.shape) * (written.mask[..., None] if written.mask is not None else 1)).sum().backward()
    assert not [parameter for parameter, value in decoder.named_parameters() if value.grad is None or not bool(value.grad.any())]


@each
def test_save_and_load_are_exact(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    first, second = randomised(build(name, **options)), build(name, seed=1, **options)
    if first.state_dict():
        save_file(first.state_dict(), tmp_path / "weights.safetensors")
        second.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    features, written = given(torch.float32)
    mine, other = (run(decoder.eval(), name, features, written).tokens for decoder in (first, second))
    assert mine is not None
    assert other is not None
    assert torch.equal(mine, other)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_dropout_belongs_to_samples(options: dict[str, Any]) -> None:
    decoder = build("transformer", dropout=0.3, attention_dropout=0.2, **options).double().train()
    features, written = given()
    assert isinstance(written.values, Tensor)
    assert features.tokens is not None
    assert features.mask is not None
    assert written.mask is not None
    with sample_randomness(SampleRandom(0, 3, torch.arange(4))):
        whole = decoder(features, written).tokens
    with sample_randomness(SampleRandom(0, 3, torch.tensor([2]))):
        alone = decoder(Features(tokens=features.tokens[2:3, :1]), Values(written.values[2:3, : LENGTHS[2]])).tokens
    torch.testing.assert_close(whole[2:3, : LENGTHS[2]], alone, rtol=1e-9, atol=1e-9)
    with sample_randomness(SampleRandom(0, 4, torch.arange(4))):
        assert not torch.equal(whole, decoder(features, written).tokens)


def test_activation_checkpointing_changes_nothing() -> None:
    decoder = randomised(build("transformer", dropout=0.3).double()).train()
    features, written = given()
    gradients = []
    for again in (False, True):
        decoder.zero_grad()
        kept = [block.forward for block in decoder.blocks]
        if again:
            for block in decoder.blocks:
                block.forward = lambda *arguments, forward=block.forward: checkpoint(forward, *arguments, use_reentrant=False)
        with sample_randomness(SampleRandom(0, 3, torch.arange(4))):
            decoder(features, written).tokens.square().sum().backward()
        for block, forward in zip(decoder.blocks, kept, strict=True):
            block.forward = forward
        gradients.append([parameter.grad.clone() for parameter in decoder.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_features_that_are_no_sequence_are_refused() -> None:
    with pytest.raises(ConfigError, match="it attends to a sequence, and the encoder gives a vector"):
        build("transformer", FeatureSpec(dim=12, layout=Layout.VECTOR, pooled=True))
