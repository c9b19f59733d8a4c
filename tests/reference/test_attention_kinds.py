"""Kinds of attention, of norms and of outputs, against torch's and transformers' own."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5Attention

from zoo.decoders.none import NoDecoder
from zoo.encoders.transformer import AttentionKind, TransformerEncoder
from zoo.errors import ConfigError
from zoo.heads.next_token import NextTokenHead, Output
from zoo.layers.attention import attention, split_heads, stack_heads
from zoo.layers.norm import RMSNorm
from zoo.layers.relative import RelativeBias
from zoo.model import Model
from zoo.specs import TextInput, TokenTarget
from zoo.structs import Values

TEXT = TextInput(name="text", vocab_size=40, max_length=32)


@pytest.mark.parametrize("length", [7, 300])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_shared_keys_and_windows(length: int, causal: bool, window: int, kv_heads: int) -> None:
    """On both sides of where the kernel changes; expected with every head's key written out and every pair's distance."""
    torch.manual_seed(0)
    query = torch.randn(2, 6, length, 8, requires_grad=True)
    key, value = (torch.randn(2, kv_heads, length, 8, requires_grad=True) for _ in range(2))
    mask = torch.arange(length) < torch.tensor([length, length - 3])[:, None]
    ahead = torch.arange(length)[None] - torch.arange(length)[:, None]
    allowed = mask[:, None, None, :] & (ahead <= (0 if causal else length)) & (ahead.abs() <= (window or length))
    whole = [part.double().repeat_interleave(6 // kv_heads, dim=1) for part in (key, value)]
    expected = F.scaled_dot_product_attention(query.double(), *whole, attn_mask=allowed)
    found = attention(query, key, value, mask=mask, causal=causal, window=window)
    real = mask[:, None, :, None]
    torch.testing.assert_close(found.double() * real, expected * real, rtol=1e-5, atol=1e-6)
    weights = torch.randn(found.shape) * real
    ours = torch.autograd.grad((found * weights).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_heads_are_stacked_and_split() -> None:
    query, key, value = torch.randn(24, 5), torch.randn(8, 5), torch.randn(8, 5)
    stacked = stack_heads(query, key, value, 2)  # 2 keys of 4, 3 queries each
    assert torch.equal(stacked.view(2, 5, 4, 5)[1, 3], key.view(2, 4, 5)[1])
    for mine, other in zip(split_heads(stacked, 2, 3), (query, key, value), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (32, 40)])
def test_buckets_of_distances_are_t5s(causal: bool, buckets: int, distance: int) -> None:
    ahead = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(ahead, bidirectional=not causal, num_buckets=buckets, max_distance=distance)
    assert torch.equal(RelativeBias(heads=1, buckets=buckets, distance=distance, causal=causal).bucket(ahead), expected)


def test_too_few_buckets_are_refused() -> None:
    with pytest.raises(ValueError, match="relative_buckets=2 with relative_distance=128"):
        RelativeBias(heads=1, buckets=2)
    with pytest.raises(ValueError, match="relative_distance over 8"):
        RelativeBias(heads=1, buckets=32, distance=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_llamas(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, 10, dtype=dtype) * 100
    ours, theirs = RMSNorm(10, eps=1e-5), LlamaRMSNorm(10, eps=1e-5)
    tolerance = 1e-6 if dtype is torch.float32 else 1e-2
    assert ours(x).dtype is dtype
    torch.testing.assert_close(ours(x), theirs(x).to(dtype), rtol=tolerance, atol=tolerance)


def model_of(output: Output, **options: object) -> Model:
    encoder = TransformerEncoder(tokens=TEXT, dim=16, depth=1, heads=2, attention=AttentionKind.CAUSAL, dropout=0.0, **options)  # type: ignore[arg-type]
    head = NextTokenHead(features=encoder.output_spec, target=TokenTarget(name="next", vocab_size=40), output=output)
    return Model(encoder=encoder, decoder=NoDecoder(features=encoder.output_spec), head=head, input="text")


def test_a_tied_output_is_the_table_of_embeddings() -> None:
    torch.manual_seed(0)
    model = model_of(Output.TIED, extra_rows=3).eval()
    assert not [name for name in model.state_dict() if "output" in name]
    values = Values(torch.randint(1, 40, (2, 5)), torch.ones(2, 5, dtype=torch.bool))
    hidden = model.encode({"text": values}).tokens
    logits = model({"text": values})["logits"]
    torch.testing.assert_close(logits, hidden @ model.encoder.embedding.weight[:40].T)
    logits.sum().backward()
    gradient = model.encoder.embedding.weight.grad
    assert bool((gradient[:40].abs().sum(1) > 0).all()), "every entry scores, so that each has a gradient"
    assert not bool(gradient[40:].any())


def test_a_tied_output_of_another_part_is_refused() -> None:
    model = model_of(Output.TIED)
    head = NextTokenHead(features=model.encoder.output_spec, target=TokenTarget(name="next", vocab_size=50), output=Output.TIED)
    with pytest.raises(ConfigError, match=r"model\.head: output=tied: the table of embeddings is 40 x 16, where 50 x 16"):
        Model(encoder=model.encoder, decoder=model.decoder, head=head, input="text")


def test_windows_reach_as_far_as_the_blocks_are_many() -> None:
    """Two blocks that see 2 positions on each side: a change is felt 4 positions on, and no further; a global block carries it everywhere."""
    ids = torch.randint(1, 40, (1, 20))
    other = ids.clone()
    other[0, 10] = ids[0, 10] % 39 + 1
    for every, far in ((0, False), (2, True)):
        torch.manual_seed(0)
        encoder = TransformerEncoder(tokens=TEXT, dim=16, depth=2, heads=2, dropout=0.0, window=2, global_every=every).eval()
        change = (encoder(ids).tokens - encoder(other).tokens).abs().amax(-1)[0]
        assert bool((change[6:15] > 0).all())
        assert bool((change[:6] > 0).any()) is far
        assert bool((change[15:] > 0).any()) is far


def test_options_that_nothing_reads_are_refused() -> None:
    for options, said in (
        ({"global_every": 3}, "without a window"),
        ({"local_period": 100.0}, "local_period"),
        ({"kv_heads": 3}, "kv_heads=3 does not divide heads=4"),
    ):
        with pytest.raises(ValueError, match=said):
            TransformerEncoder(tokens=TEXT, **options)  # type: ignore[arg-type]


def test_label_smoothing_is_torchs() -> None:
    torch.manual_seed(0)
    encoder = TransformerEncoder(tokens=TEXT, dim=16, depth=1, heads=2, attention=AttentionKind.CAUSAL, dropout=0.0)  # type: ignore[arg-type]
    head = NextTokenHead(features=encoder.output_spec, target=TokenTarget(name="next", vocab_size=40), label_smoothing=0.1)
    ids, wanted = torch.randint(1, 40, (2, 6)), torch.randint(0, 40, (2, 6))
    loss = head.loss(head(encoder(ids)), {"next": wanted}, torch.ones(2, dtype=torch.bool))["next_token"]
    logits = F.linear(encoder(ids).tokens, head.output.weight).flatten(0, 1).log_softmax(-1)
    share = torch.full_like(logits, 0.1 / 40).scatter_add_(1, wanted.flatten()[:, None], torch.full((12, 1), 0.9))
    torch.testing.assert_close(loss.sum, -(share * logits).sum())
    assert math.isclose(float(loss.count), 12)
