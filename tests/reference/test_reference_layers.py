"""Layers and encoders against other implementations with the same weights: torch's own, timm's, and published vectors."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.encoders.gru import GatedRecurrentUnit
from zoo.encoders.lstm import LongShortTermMemory
from zoo.encoders.vit import VisionTransformer
from zoo.layers.attention import attention, stack_heads
from zoo.layers.dropout import Dropout, DropPath, finalise, keep_mask, name_randomness, words
from zoo.layers.feedforward import Activation, FeedForward
from zoo.layers.norm import ChannelNorm, MaskedGroupNorm
from zoo.layers.position import Rotary, SinusoidalPositions, rotate
from zoo.layers.recurrent import Direction
from zoo.layers.transformer import NormPlacement, TransformerBlock
from zoo.random import SampleRandom, mix, mix_tensor, sample_randomness
from zoo.specs import ImageInput, TextInput


@pytest.mark.parametrize("length", [1, 7, 65, 200, 300])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_torchs(length: int, causal: bool, masked: bool, dtype: torch.dtype) -> None:
    """Lengths on both sides of where the kernel changes; the stated tolerance."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, length, 16, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.arange(length) < torch.tensor([length, max(1, length // 2), 1])[:, None] if masked else None
    allowed = torch.ones(length, length, dtype=torch.bool).tril() if causal else torch.ones(length, length, dtype=torch.bool)
    expected = F.scaled_dot_product_attention(
        query.double(),
        key.double(),
        value.double(),
        attn_mask=allowed & (mask[:, None, None, :] if mask is not None else torch.ones(1, 1, 1, length, dtype=torch.bool)),
    )
    found = attention(query, key, value, mask=mask, causal=causal)
    tolerance = 1e-6 if dtype is torch.float32 else 2e-2
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    weights = torch.randn(found.shape)
    ours = torch.autograd.grad((found * weights).float().sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).float().norm() / other.float().norm().clamp_min(1e-3)) < 10 * tolerance


def test_attention_of_a_row_without_anything_real_is_finite() -> None:
    query = torch.randn(2, 1, 5, 4, requires_grad=True)
    mask = torch.tensor([[True] * 5, [False] * 5])
    for causal in (False, True):
        found = attention(query, query, query, mask=mask, causal=causal)
        assert bool(found.isfinite().all())
        found.sum().backward()
        assert query.grad is not None
        assert bool(query.grad.isfinite().all())


@pytest.mark.parametrize("placement", list(NormPlacement))
@pytest.mark.parametrize("activation", [Activation.GELU, Activation.RELU])
@pytest.mark.parametrize("causal", [False, True])
def test_block_is_torchs_encoder_layer(placement: NormPlacement, activation: Activation, causal: bool) -> None:
    torch.manual_seed(0)
    reference = nn.TransformerEncoderLayer(
        24, 3, 60, dropout=0.0, activation=activation.value, layer_norm_eps=1e-6, batch_first=True, norm_first=placement is NormPlacement.PRE
    )
    block = TransformerBlock(dim=24, heads=3, mlp_ratio=2.5, placement=placement, activation=activation, causal=causal)
    names = {
        "attention.qkv.weight": "self_attn.in_proj_weight",
        "attention.qkv.bias": "self_attn.in_proj_bias",
        "attention.proj": "self_attn.out_proj",
        "mlp.fc1": "linear1",
        "mlp.fc2": "linear2",
        "norm1": "norm1",
        "norm2": "norm2",
    }
    theirs = reference.state_dict()
    for name in ("self_attn.in_proj_weight", "self_attn.in_proj_bias"):
        theirs[name] = stack_heads(*theirs[name].chunk(3), heads=3)
    block.load_state_dict(
        {name: theirs[next(name.replace(ours, other) for ours, other in names.items() if name.startswith(ours))] for name in block.state_dict()}
    )
    x = torch.randn(4, 9, 24)
    mask = torch.arange(9) < torch.tensor([9, 4, 1, 6])[:, None]
    forbidden = ~torch.ones(9, 9, dtype=torch.bool).tril() if causal else None
    expected = reference(x, src_mask=forbidden, src_key_padding_mask=~mask)
    torch.testing.assert_close(block(x, mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_swiglu_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(dim=6, hidden=10, activation=Activation.SWIGLU).double(), torch.randn(3, 6, dtype=torch.float64)
    both = x @ layer.fc1.weight.T + layer.fc1.bias
    gate, up = both[:, 0::2], both[:, 1::2]
    expected = (gate / (1 + torch.exp(-gate)) * up) @ layer.fc2.weight.T + layer.fc2.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("size", [28, 32])
def test_vit_is_timms(size: int) -> None:
    """Same weights, same tokens as timm's, to 1e-5."""
    from timm.models.vision_transformer import VisionTransformer as Reference

    torch.manual_seed(0)
    reference = Reference(img_size=size, patch_size=4, in_chans=3, embed_dim=48, depth=3, num_heads=3, num_classes=0).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    encoder = VisionTransformer(image=ImageInput(name="image", channels=3, height=size, width=size), dim=48, depth=3, heads=3, patch_size=4).eval()
    changed = {"cls": "cls_token", "positions.weight": "pos_embed", "patches.proj": "patch_embed.proj", "attention.": "attn."}
    state, theirs = encoder.state_dict(), reference.state_dict()
    for name in state:
        other = name
        for ours, renamed in changed.items():
            other = other.replace(ours, renamed)
        value = theirs.pop(other)
        state[name] = (stack_heads(*value.chunk(3), heads=3) if "qkv" in name else value).reshape(state[name].shape)
    encoder.load_state_dict(state)
    assert not theirs, "timm's model has weights that ours has not"
    image = torch.randn(3, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image).tokens, reference.forward_features(image), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encoder(image).pooled, reference(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "theirs"), [(LongShortTermMemory, nn.LSTM), (GatedRecurrentUnit, nn.GRU)])
@pytest.mark.parametrize("direction", list(Direction))
def test_recurrence_is_torchs_on_packed_sequences(direction: Direction, kind: Any, theirs: Any) -> None:
    """R8: values and gradients of ``nn.LSTM`` and ``nn.GRU`` with ``pack_padded_sequence``."""
    torch.manual_seed(0)
    both = direction is Direction.BOTH
    encoder = kind(tokens=TextInput(name="text", vocab_size=20, max_length=12), dim=12, depth=2, direction=direction, dropout=0.0).double()
    reference = theirs(12, 6 if both else 12, num_layers=2, batch_first=True, bidirectional=both).double()
    state = reference.state_dict()
    for name in state:
        kind, layer, reverse = name.replace("_reverse", "").rsplit("_l", 1)[0], int(name.replace("_reverse", "").rsplit("_l", 1)[1]), "reverse" in name
        part = encoder.layers[layer]
        state[name] = dict((part.backward_ if reverse else part.onward).named_parameters())[f"{kind}_l0"].detach()
    reference.load_state_dict(state)
    lengths = torch.tensor([7, 12, 1, 4])
    mask = torch.arange(12) < lengths[:, None]
    tokens = torch.randint(1, 20, (4, 12)).masked_fill(~mask, 0)
    packed = nn.utils.rnn.pack_padded_sequence(encoder.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    found = encoder(tokens, mask).tokens
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    ours, others = (torch.autograd.grad(tensor.square().sum(), encoder.embedding.weight)[0] for tensor in (found, expected))
    torch.testing.assert_close(ours, others, rtol=1e-9, atol=1e-12)


def test_masked_group_norm_is_torchs_on_the_real_frames() -> None:
    torch.manual_seed(0)
    ours, theirs = MaskedGroupNorm(2, 8), nn.GroupNorm(2, 8)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    maps, lengths = torch.randn(3, 8, 5, 11), [11, 3, 1]
    found = ours(maps, torch.arange(11) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row : row + 1, :, :, :length], theirs(maps[row : row + 1, :, :, :length]), rtol=1e-5, atol=1e-5)
        assert not bool(found[row, :, :, length:].any())


def test_channel_norm_is_layer_norm_of_each_place() -> None:
    maps, norm = torch.randn(2, 6, 3, 4), ChannelNorm(6)
    torch.testing.assert_close(norm(maps)[1, :, 2, 3], F.layer_norm(maps[1, :, 2, 3], (6,), eps=1e-6))


def test_sinusoidal_positions_are_the_papers_formula() -> None:
    table = SinusoidalPositions(dim=8)(torch.zeros(1, 30, 8))[0]
    for position in (0, 1, 29):
        for pair in range(4):
            angle = position / 10_000 ** (2 * pair / 8)
            assert float(table[position, 2 * pair]) == pytest.approx(math.sin(angle), abs=1e-6)
            assert float(table[position, 2 * pair + 1]) == pytest.approx(math.cos(angle), abs=1e-6)


def test_rotary_scores_depend_on_distance_alone() -> None:
    """The property that defines it, and the rotation of each pair as complex numbers."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8).unbind(0)
    turned = Rotary(dim=8)(20, torch.device("cpu"))
    queries, keys = rotate(query.expand(1, 1, 20, 8), turned)[0, 0], rotate(key.expand(1, 1, 20, 8), turned)[0, 0]
    scores = queries @ keys.T
    for distance in range(-9, 10):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    pairs = torch.complex(query[0, 0, 0, :4], query[0, 0, 0, 4:])
    frequency = 10_000 ** -(torch.arange(4) / 4)
    spun = pairs * torch.polar(torch.ones(4), 13 * frequency)
    torch.testing.assert_close(queries[13], torch.cat((spun.real, spun.imag)), rtol=1e-5, atol=1e-5)


SPLITMIX = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
"""The first outputs of SplitMix64 from seed 1234567 (https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64)."""


def test_words_are_splitmix64() -> None:
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + step * golden) % 2**64 for step in range(5)]
    signed = torch.tensor([state - 2**64 if state >> 63 else state for state in states])
    assert [mix(state) for state in states] == SPLITMIX
    assert [value % 2**64 for value in mix_tensor(signed).tolist()] == SPLITMIX
    assert [value % 2**64 for value in finalise(signed + (golden - 2**64)).tolist()] == SPLITMIX
    random = SampleRandom(0, 0, torch.arange(4))
    assert torch.equal(words(random.keys, 9), mix_tensor(random.keys[:, None] + torch.arange(1, 10) * (golden - 2**64)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_has_the_rate_the_scale_and_independence(p: float) -> None:
    """Over a million elements: rate and mean within 5 standard errors, and no correlation between neighbours, samples, modules or steps."""
    layers = nn.ModuleDict({"first": Dropout(p), "second": Dropout(p)})
    name_randomness(layers)

    def masks(step: int, name: str) -> Tensor:
        with sample_randomness(SampleRandom(0, step, torch.arange(1000))):
            kept: Tensor = layers[name](torch.ones(1000, 1000))
        return kept

    one = masks(0, "first")
    count, sigma = one.numel(), math.sqrt(p * (1 - p))
    assert float((one == 0).double().mean()) == pytest.approx(p, abs=5 * sigma / math.sqrt(count) + 2**-17)
    assert float(one.max()) == pytest.approx(1 / (1 - p), rel=1e-3)
    assert float(one.double().mean()) == pytest.approx(1, abs=5 * sigma / (1 - p) / math.sqrt(count))
    standard = (one.double() - 1) * (1 - p) / sigma
    pairs = {"neighbours": (standard[:, :-1], standard[:, 1:]), "fourth": (standard[:, :-4], standard[:, 4:]), "samples": (standard[:-1], standard[1:])}
    for other, name in ((masks(0, "second"), "module"), (masks(1, "first"), "step")):
        pairs[name] = standard, (other.double() - 1) * (1 - p) / sigma
    for name, (left, right) in pairs.items():
        assert abs(float((left * right).mean())) < 5 / math.sqrt(left.numel()), name
    per_sample = (one == 0).double().sum(dim=1)
    assert float(per_sample.var()) == pytest.approx(1000 * sigma**2, rel=0.25)


def test_drop_path_leaves_out_whole_samples() -> None:
    layer = DropPath(0.25)
    name_randomness(nn.ModuleDict({"path": layer}))
    with sample_randomness(SampleRandom(0, 0, torch.arange(20_000))):
        kept = layer(torch.ones(20_000, 2, 3)).flatten(1)
    assert bool((kept == kept[:, :1]).all())
    assert float((kept[:, 0] == 0).double().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(kept.max()) == pytest.approx(4 / 3)


def test_masks_do_not_move_with_padding() -> None:
    keys = SampleRandom(0, 0, torch.arange(3)).keys
    short, long = keep_mask(keys, torch.Size((5, 7)), 0.5, torch.float32), keep_mask(keys, torch.Size((9, 7)), 0.5, torch.float32)
    assert torch.equal(short, long[:, :5])
