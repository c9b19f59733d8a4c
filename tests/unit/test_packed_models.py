"""Whole models on packed batches: the losses, gradients and answers of padded ones (R8), and the attention kernels behind them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.cases import double, randomised
from zoo.build import assemble
from zoo.data.fake import fake_batch
from zoo.data.packing import pack, packing_of
from zoo.layers import attention
from zoo.layers.attention import MultiHeadAttention
from zoo.layers.dropout import name_randomness
from zoo.layers.pooling import Pooling
from zoo.layers.transformer import TransformerBlock
from zoo.random import SampleRandom, sample_randomness
from zoo.specs import ClassTarget, DataSpec, HistoryInput, ItemTarget, NumberTarget, SpectrogramInput, TextInput
from zoo.structs import Batch, Packing, Values

LENGTHS = [5, 17, 1, 8, 17, 2]
TEXT = TextInput(name="text", vocab_size=50, max_length=40)
ITEMS = HistoryInput(name="history", vocab_size=31, max_length=40)
CLASSES = ClassTarget(name="label", labels=tuple("abcdef"))
CASES: dict[str, tuple[DataSpec, dict[str, Any], dict[str, Any]]] = {
    **{
        f"classification-{pooling}": (
            DataSpec(inputs=(TEXT,), targets=(CLASSES,)),
            {"dropout": 0.3},
            {"name": "classification", "pooling": str(pooling), "dropout": 0.2},
        )
        for pooling in Pooling
    },
    **{
        f"next_item-{loss}": (
            DataSpec(inputs=(ITEMS,), targets=(ItemTarget(name="next", num_items=30),)),
            {"attention": "causal", "dropout": 0.3},
            {"name": "next_item", "loss": loss, "num_sampled": 5, "dropout": 0.2},
        )
        for loss in ("full", "sampled")
    },
    "regression": (DataSpec(inputs=(TEXT,), targets=(NumberTarget(name="y", columns=("a",), mean=(0.0,), std=(1.0,)),)), {}, {"name": "regression"}),
}


def model_and_batches(name: str) -> tuple[Any, Batch, Batch]:
    spec, encoder, head = CASES[name]
    torch.manual_seed(0)
    model = randomised(assemble({"name": "transformer", "dim": 24, "depth": 2, **encoder}, {"name": "none"}, head, spec).double())
    padded = fake_batch(spec, len(LENGTHS), lengths=LENGTHS)
    padded = padded.apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    packed = Batch({key: pack(values) for key, values in padded.inputs.items()}, padded.targets, padded.ids, padded.valid)
    return model, padded, packed


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_answers_are_those_of_padded_rows(name: str) -> None:
    model, padded, packed = model_and_batches(name)
    found = []
    for batch in (padded, packed):
        model.train()
        model.zero_grad()
        with sample_randomness(SampleRandom(3, 5, batch.ids)):
            terms = model.losses(batch)
            torch.stack([term.sum for term in terms.values()]).sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.eval()
        with torch.no_grad():
            answers = model(batch.inputs)
            terms |= {f"{key} measured": term for key, term in model.head.loss(answers, batch.targets, batch.valid).items()}
        answers = {key: value for key, value in answers.items() if key != "hidden"}
        found.append(([*gradients, *(term.sum.detach() for term in terms.values()), *answers.values()], {key: float(t.count) for key, t in terms.items()}))
    assert found[0][1] == found[1][1]
    for expected, other in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(other, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [5, 6, 8, 9])
def test_masks_of_any_width(width: int) -> None:
    """A random word serves four elements: where 4 does not divide the width, a word spans two positions of a sample."""
    block = TransformerBlock(dim=width, heads=1, mlp_ratio=1.3, dropout=0.4, attention_dropout=0.4, drop_path=0.4).double().train()
    name_randomness(block)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    rows = torch.randn(len(LENGTHS), max(LENGTHS), width, dtype=torch.float64) * mask[..., None]
    packed = pack(Values(rows.transpose(1, 2), mask))
    assert isinstance(packed.values, Tensor)
    assert packed.packing is not None
    with sample_randomness(SampleRandom(0, 0, torch.arange(len(LENGTHS)))):
        expected = block(rows, mask) * mask[..., None]
        found = packed.packing.unpack(block(packed.values.transpose(1, 2), None, None, packed.packing))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_spectrograms_pack_along_their_frames() -> None:
    spec = DataSpec(inputs=(SpectrogramInput(name="audio", n_mels=7, max_frames=40, frame_rate=100.0),), targets=())
    padded = fake_batch(spec, len(LENGTHS), lengths=LENGTHS).inputs["audio"]
    packed = pack(padded)
    assert isinstance(packed.values, Tensor)
    assert packed.values.shape == (1, 7, sum(LENGTHS))
    back = packed.unpacked()
    assert isinstance(back.values, Tensor)
    assert isinstance(padded.values, Tensor)
    torch.testing.assert_close(back.values, padded.values, rtol=0, atol=0)
    table = Values({"numbers": torch.zeros(3, 2)})
    assert pack(table) is table


def test_where_items_stand() -> None:
    packing = packing_of(torch.tensor([2, 3, 1, 3]))
    assert packing.items.tolist() == [1, 3, 0, 2]
    assert packing.runs == ((2, 3), (1, 2), (1, 1))
    assert packing.segments.tolist() == [1, 1, 1, 3, 3, 3, 0, 0, 2]
    assert packing.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0]
    assert packing.starts.tolist() == [0, 3, 6, 8, 9]
    assert packing.places.tolist() == [[6, 7, 0], [0, 1, 2], [8, 0, 0], [3, 4, 5]]


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_for_unequal_lengths_gets_what_it_asks_for(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of torch.nn.attention.varlen's arguments, with its formula in plain torch in its place: it runs on GPUs only."""

    def reference(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        starts: Tensor,
        starts_k: Tensor,
        longest: int,
        longest_k: int,
        *,
        window_size: Any,
        scale: Any,
        enable_gqa: bool,
    ) -> Tensor:
        assert scale is None
        assert not enable_gqa
        assert starts.dtype == torch.int32
        assert starts is starts_k
        assert longest == longest_k == max(LENGTHS)
        segment = torch.bucketize(torch.arange(len(query)), starts[1:-1].long(), right=True)
        seen = segment[:, None] == segment[None, :]
        if window_size == (-1, 0):
            seen = seen.tril()
        scores = torch.einsum("nhe,mhe->hnm", query, key) * query.shape[-1] ** -0.5
        return torch.einsum("hnm,mhe->nhe", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference)
    layer = MultiHeadAttention(dim=16, heads=2, causal=causal).double()
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    packed = pack(double(Values(torch.randn(len(LENGTHS), 16, max(LENGTHS)), mask)))
    assert isinstance(packed.values, Tensor)
    assert isinstance(packed.packing, Packing)
    angles = torch.randn(max(LENGTHS), 8, dtype=torch.float64)
    rotation = angles.cos(), angles.sin()
    row = packed.values.transpose(1, 2)
    expected = layer(row, None, rotation, packed.packing)
    monkeypatch.setattr(attention, "takes_varlen", lambda *_: True)
    torch.testing.assert_close(layer(row, None, rotation, packed.packing), expected, rtol=1e-10, atol=1e-10)
