"""The contract of encoders, over every registered name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.contract.cases import COMPOSITES, ENCODER_CASES, REFUSED_ENCODERS, EncoderCase, double, encoder_inputs, outputs, randomised
from zoo.data.packing import pack
from zoo.model import encode_input, mixes_batch
from zoo.optim.groups import ParameterGroups
from zoo.presets import conf_dir
from zoo.random import SampleRandom, sample_randomness
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, ImageInput, Layout
from zoo.structs import Features, Values

BASE = [case for case in ENCODER_CASES if not case.options and case.input in encoder_inputs(case.name)[:1]]
PADDED = [case for case in ENCODER_CASES if case.input in ("text", "history", "spectrogram")]
each_case = pytest.mark.parametrize("case", ENCODER_CASES, ids=str)
each_encoder = pytest.mark.parametrize("case", BASE, ids=str)


def run(encoder: Any, values: Values) -> Features:
    features: Features = encoder(values.values, values.mask)
    return features


def row(values: Values, place: int, length: int | None = None) -> Values:
    """One row alone, cut to its length."""
    alone = values.apply(lambda tensor: tensor[place : place + 1])
    if length is None or alone.mask is None:
        return alone
    assert isinstance(alone.values, Tensor)
    return Values(alone.values[..., :length], alone.mask[:, :length])


@pytest.mark.parametrize("name", ENCODERS.names())
def test_is_documented_and_has_a_tiny_preset(name: str) -> None:
    schema = ENCODERS.schema(name)
    assert schema.summary.endswith(".")
    assert not [option.name for option in schema.options if not option.doc], "options without a line under Args:"
    assert (conf_dir() / f"model/encoder/{name}_tiny.yaml").read_text().startswith("# ")
    assert encoder_inputs(name) or name in COMPOSITES, f"no example of {schema.wired} in tests/contract/cases.py"


@pytest.mark.parametrize(("case", "error"), REFUSED_ENCODERS, ids=lambda value: str(value) if isinstance(value, EncoderCase) else "")
def test_a_refused_choice_says_what_else(case: EncoderCase, error: Exception) -> None:
    assert "choose" in str(error) or "way out" in str(error) or "change" in str(error)


@each_case
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_declared_is_measured(case: EncoderCase, device: str) -> None:
    with torch.device(device):
        encoder = case.build()
    values = case.values(3, device=device)
    spec: FeatureSpec = encoder.output_spec
    features = run(encoder.eval(), values)
    tensors = outputs(features)
    assert tensors
    assert all(tensor.device.type == device for tensor in tensors)
    assert (features.pooled is not None) == spec.pooled
    if features.pooled is not None:
        assert features.pooled.shape == (3, spec.dim)
    if spec.layout is Layout.SEQUENCE:
        assert features.tokens is not None
        assert features.tokens.shape[0] == 3
        assert features.tokens.shape[2] == spec.dim
        assert spec.length is None or features.tokens.shape[1] == spec.length
        assert features.mask is None or features.mask.shape == features.tokens.shape[:2]
        assert (features.mask is None) == (values.mask is None)
    assert len(features.maps) == len(spec.maps)
    for level, declared in zip(features.maps, spec.maps, strict=True):
        assert isinstance(case.spec, ImageInput)
        assert level.shape == (3, declared.channels, -(-case.spec.height // declared.stride), -(-case.spec.width // declared.stride))
    if spec.layout is Layout.MAP:
        assert spec.maps[-1].channels == spec.dim


@each_case
def test_weight_decay_spares_what_stands_for_an_entry(case: EncoderCase) -> None:
    """Embeddings, positions and class entries, in every variant, as zoo.optim.groups says."""
    with torch.device("meta"):
        groups = ParameterGroups(case.build())
    entries = {"cls", "cls_token", "positions", "pos_embed", "embedding", "embeddings"}
    assert not [name for name in groups.decayed if entries & set(name.split("."))]


@each_case
def test_alone_is_in_a_batch(case: EncoderCase) -> None:
    """R8: an item has the same output alone and among others."""
    encoder = randomised(case.build().double().eval())
    values = double(case.values(4, [9, 9, 9, 9]))
    together = outputs(run(encoder, values))
    for place in range(4):
        for whole, alone in zip(together, outputs(run(encoder, row(values, place))), strict=True):
            torch.testing.assert_close(whole[place : place + 1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", PADDED, ids=str)
def test_padding_changes_nothing(case: EncoderCase) -> None:
    """R8: alone, padded, and padded with anything at all; with the mask and, alone, without."""
    lengths = [5, 17, 1, 8]
    encoder = randomised(case.build().double().eval())
    values = double(case.values(4, lengths))
    assert isinstance(values.values, Tensor)
    assert values.mask is not None
    padded = run(encoder, values)
    real = values.mask if values.values.dim() == 2 else values.mask[:, None, :].expand_as(values.values)
    junk = run(encoder, Values(torch.where(real, values.values, torch.full_like(values.values, 7)), values.mask))
    assert padded.tokens is not None
    assert padded.mask is not None
    assert junk.tokens is not None
    torch.testing.assert_close(outputs(padded), outputs(junk), rtol=0, atol=0)
    for place, length in enumerate(lengths):
        alone = row(values, place, length)
        for mask in (alone.mask, None):
            found = run(encoder, Values(alone.values, mask)).tokens
            assert found is not None
            kept = int(padded.mask[place].sum())
            assert found.shape[1] == kept
            torch.testing.assert_close(found[0], padded.tokens[place, :kept], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in PADDED if getattr(ENCODERS.load(case.name), "packs", False)], ids=str)
def test_packing_changes_nothing(case: EncoderCase) -> None:
    """R8: alone, padded and packed, with every dropout on: the same features, and the same gradients of every parameter."""
    lengths = [5, 17, 1, 8, 17, 2]
    encoder = randomised(case.build(**case.dropouts()).double().train())
    batch = case.batch(6, lengths)
    padded = double(batch.inputs[case.spec.name])
    packed = pack(padded)
    assert isinstance(packed.values, Tensor)
    assert packed.packing is not None
    assert packed.values.shape[-1] == sum(lengths)
    weights = torch.randn(6, 17, encoder.output_spec.dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def train(values: Values, rows: slice) -> list[Tensor]:
        encoder.zero_grad()
        with sample_randomness(SampleRandom(1, 7, batch.ids[rows] + 100)):
            features = encode_input(encoder, values)
            assert features.tokens is not None
            real = outputs(features)[0]
            pooled = (features.pooled * weights[rows, 16]).sum() if features.pooled is not None else 0.0
            ((real * weights[rows, : real.shape[1]]).sum() + pooled).backward()
        return [real.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())]

    whole, together = train(padded, slice(0, 6)), train(packed, slice(0, 6))
    for expected, found in zip(whole, together, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    alone = [train(row(padded, place, length), slice(place, place + 1)) for place, length in enumerate(lengths)]
    for place, length in enumerate(lengths):
        torch.testing.assert_close(alone[place][0][0], together[0][place, :length], rtol=1e-10, atol=1e-10)
    for number in range(1, len(together)):
        torch.testing.assert_close(sum(entry[number] for entry in alone), together[number], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", [case for case in PADDED if case.build().output_spec.causal], ids=str)
def test_causal_features_do_not_see_what_follows(case: EncoderCase) -> None:
    encoder = randomised(case.build().double().eval())
    values = double(case.values(2, [12, 12]))
    assert isinstance(values.values, Tensor)
    changed = values.values.clone()
    changed[:, 7:] = changed[:, 7:] % 13 + 2
    before, after = run(encoder, values).tokens, run(encoder, Values(changed, values.mask)).tokens
    assert before is not None
    assert after is not None
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def random_loss(features: Features) -> Tensor:
    total = torch.zeros(())
    for tensor in outputs(features):
        weights = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5)).to(tensor.dtype)
        total = total + (tensor * weights).sum()
    return total


@each_case
def test_every_parameter_gets_a_gradient(case: EncoderCase) -> None:
    encoder = case.build()
    random_loss(run(encoder, case.values(4, [17, 17, 16, 12]))).backward()
    missing = [name for name, parameter in encoder.named_parameters() if parameter.grad is None or not bool(parameter.grad.any())]
    assert not missing
    assert all(bool(parameter.grad.isfinite().all()) for parameter in encoder.parameters())


@each_encoder
def test_save_and_load_are_exact(case: EncoderCase, tmp_path: Path) -> None:
    first, second = case.build(seed=1).eval(), case.build(seed=2).eval()
    values = case.values()
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    assert not all(torch.equal(a, b) for a, b in zip(outputs(run(first, values)), outputs(run(second, values)), strict=True))
    second.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    for before, after in zip(outputs(run(first, values)), outputs(run(second, values)), strict=True):
        assert torch.equal(before, after)


@each_encoder
def test_a_seed_gives_the_same_weights(case: EncoderCase) -> None:
    first, again, other = case.build(seed=1).state_dict(), case.build(seed=1).state_dict(), case.build(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@each_encoder
def test_bf16_autocast_stays_near_fp32(case: EncoderCase) -> None:
    encoder, values = case.build().eval(), case.values()
    exact = outputs(run(encoder, values))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = run(encoder, values)
        near = outputs(features)
    random_loss(features).backward()
    for wide, narrow in zip(exact, near, strict=True):
        assert float(((wide - narrow.float()).norm() / wide.norm()).detach()) < 0.05
    assert all(bool(parameter.grad.isfinite().all()) for parameter in encoder.parameters())


@each_case
def test_dropout_belongs_to_samples(case: EncoderCase) -> None:
    """R3, R23: the same masks in one batch of six and in batches of one, two and three, with other padding; others in another step."""
    encoder = randomised(case.build(**case.dropouts()).double().train())
    if mixes_batch(encoder):  # asked for by name, and the trainer says so; then nothing but the rows' company may differ
        encoder.apply(lambda module: module.eval() if isinstance(module, nn.modules.batchnorm._BatchNorm) else module)
    batch = case.batch(6, [3, 5, 2, 11, 7, 4])
    values = double(batch.inputs[case.spec.name])

    def train(rows: slice, length: int | None = None, step: int = 7) -> Features:
        part = values.apply(lambda tensor: tensor[rows])
        if length and part.mask is not None and isinstance(part.values, Tensor):
            part = Values(part.values[..., :length], part.mask[:, :length])
        with sample_randomness(SampleRandom(1, step, batch.ids[rows] + 100)):
            return run(encoder, part)

    whole = outputs(train(slice(0, 6)))
    for rows, length in ((slice(0, 1), 3), (slice(1, 3), 5), (slice(3, 6), 11)):
        for all_rows, some in zip(whole, outputs(train(rows, length)), strict=True):
            cut = all_rows[rows, : some.shape[1]] if all_rows.dim() == 3 else all_rows[rows]
            torch.testing.assert_close(some, cut, rtol=1e-9, atol=1e-9)
    if case.dropouts():
        assert not torch.allclose(whole[0], outputs(train(slice(0, 6), step=8))[0])


@pytest.mark.parametrize("case", [case for case in BASE if ENCODERS.load(case.name).repeats], ids=str)
def test_activation_checkpointing_changes_nothing(case: EncoderCase) -> None:
    def gradients(*, checkpointed: bool) -> dict[str, Tensor]:
        encoder = case.build(**case.dropouts()).train()
        for name in encoder.repeats:
            blocks = getattr(encoder, name)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks if checkpointed else ():
                block.forward = lambda *args, plain=block.forward: checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=False)
        batch = case.batch(3)
        with sample_randomness(SampleRandom(0, 0, batch.ids)):
            random_loss(run(encoder, batch.inputs[case.spec.name])).backward()
        return {name: parameter.grad for name, parameter in encoder.named_parameters()}

    plain, again = gradients(checkpointed=False), gradients(checkpointed=True)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
