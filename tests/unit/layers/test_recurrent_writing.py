"""Recurrent models that write: the state that is kept gives what the whole text gives, for prompts of unequal lengths; a decoder by the paper's formula."""

from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.build import Nodes, build_model
from zoo.data.codecs.text import TextCodec
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.decoders.gru import GruDecoder
from zoo.inference.generate import continuations, translations
from zoo.inference.sampling import Sampling
from zoo.inference.writers import CachedWriter, writer_of
from zoo.layers.recurrent import RecurrentState
from zoo.model import Model
from zoo.specs import DataSpec, FeatureSpec, Layout, TextInput, TokenTarget, WrittenInput
from zoo.structs import Features, Values

VOCABULARY = 259
CPU = torch.device("cpu")


def language_model(name: str) -> Model:
    torch.manual_seed(0)
    spec = DataSpec(inputs=(TextInput(name="text", vocab_size=VOCABULARY, max_length=60),), targets=(TokenTarget(name="next", vocab_size=VOCABULARY),))
    encoder = {"name": name, "dim": 24, "depth": 2, "direction": "forward", "dropout": 0.1}
    from zoo.registry import DECODERS, ENCODERS, HEADS

    nodes = Nodes(
        ENCODERS.check_node(encoder, "model.encoder"), DECODERS.check_node({"name": "none"}, "model.decoder"), HEADS.check_node({"name": "next_token"}, "h")
    )
    model = build_model(nodes, spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # scores that differ
    return model


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("sampling", [Sampling(max_tokens=20), Sampling(max_tokens=20, temperature=1.0, seed=3), Sampling(max_tokens=12, beams=3)])
def test_kept_states_write_what_whole_texts_do(name: str, sampling: Sampling) -> None:
    model, codec = language_model(name), TextCodec(name="text", tokenizer=ByteTokenizer(), max_length=60)
    assert isinstance(writer_of(model, name="text", pad=0), CachedWriter)
    prompts = [codec.tokenizer.prompt(text) for text in ("some text", "a", "another text that is longer", "b")]
    kept, whole = (continuations(model, codec, prompts, sampling, places=range(4), device=CPU, cached=cached) for cached in (True, False))
    assert kept == whole
    alone = [continuations(model, codec, [prompt], sampling, places=[place], device=CPU)[0] for place, prompt in enumerate(prompts)]
    assert [answer.ids for answer in alone] == [answer.ids for answer in kept]
    assert len({tuple(answer.ids) for answer in kept}) > 1


@pytest.mark.parametrize("name", ["lstm", "gru"])
@torch.no_grad()
def test_pieces_of_unequal_rows_are_the_whole(name: str) -> None:
    encoder: Any = language_model(name).encoder
    lengths = torch.tensor([7, 2, 5])
    ids = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(7) < lengths[:, None]
    state = encoder.begin(3, 20)
    first = encoder.extend(ids, state, lengths)
    torch.testing.assert_close(first[mask], encoder(ids, mask).tokens[mask], atol=1e-5, rtol=1e-4)
    more = torch.randint(3, VOCABULARY, (3, 4), generator=torch.Generator().manual_seed(2))
    second = encoder.extend(more, state)
    for row, length in enumerate(lengths.tolist()):
        whole = encoder(torch.cat((ids[row : row + 1, :length], more[row : row + 1]), dim=1)).tokens
        torch.testing.assert_close(second[row], whole[0, length:], atol=1e-5, rtol=1e-4)


def decoder() -> tuple[GruDecoder, Features, Tensor]:
    torch.manual_seed(0)
    written = WrittenInput(name="written", vocab_size=30, max_length=20)
    found = GruDecoder(features=FeatureSpec(dim=10, layout=Layout.SEQUENCE), written=written, dim=6, depth=2, dropout=0.0).eval()
    mask = torch.arange(5) < torch.tensor([5, 3])[:, None]
    return found, Features(tokens=torch.randn(2, 5, 10), mask=mask), torch.randint(1, 30, (2, 4))


@torch.no_grad()
def test_the_papers_formula_place_by_place() -> None:
    """GRU cells of torch, one place at a time; Luong's equations 5, 7 and 8 with the general score."""
    model, features, ids = decoder()
    found = model(features, Values(ids)).tokens
    assert features.tokens is not None
    assert features.mask is not None
    cells = []
    for layer in model.layers:
        cell, own = torch.nn.GRUCell(6, 6), layer.onward  # type: ignore[union-attr]
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in own.state_dict().items()})  # type: ignore[union-attr, operator]
        cells.append(cell)
    for row in range(2):
        source = features.tokens[row, features.mask[row]]
        states = list(torch.tanh(model.first(source.mean(0))).split(6))
        for place in range(4):
            x = model.embedding.weight[ids[row, place]]  # type: ignore[union-attr]
            for number, cell in enumerate(cells):
                states[number] = x = cell(x, states[number])
            weights = torch.softmax(torch.stack([x @ model.score.weight @ one for one in source]), dim=0)
            context = weights @ source
            expected = torch.tanh(model.mixed.weight @ torch.cat((x, context)))
            torch.testing.assert_close(found[row, place], expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_decoder_goes_on_from_its_state() -> None:
    model, features, ids = decoder()
    whole = model(features, Values(ids)).tokens
    state = model.begin(features, 20)
    assert isinstance(state, RecurrentState)
    parts = [model.extend(ids[:, place : place + 1], state) for place in range(2)]
    state.select(torch.tensor([1, 0, 1]))
    parts.append(model.extend(ids[[1, 0, 1], 2:], state))
    torch.testing.assert_close(torch.cat(parts[:2], dim=1), whole[:, :2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(parts[2], whole[[1, 0, 1], 2:], atol=1e-6, rtol=1e-5)


def test_what_a_decoder_refuses() -> None:
    written = WrittenInput(name="written", vocab_size=30, max_length=20)
    with pytest.raises(ValueError, match="attends to a sequence"):
        GruDecoder(features=FeatureSpec(dim=10, layout=Layout.VECTOR, pooled=True), written=written)
    model = GruDecoder(features=FeatureSpec(dim=10, layout=Layout.SEQUENCE), written=written, embedding="tied")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embedding=tied"):
        model.tie(torch.nn.Embedding(20, 10))


@torch.no_grad()
def test_beams_of_a_decoder_with_and_without_its_state() -> None:
    from zoo.registry import DECODERS, ENCODERS, HEADS

    spec = DataSpec(
        inputs=(TextInput(name="text", vocab_size=40, max_length=20), WrittenInput(name="written", vocab_size=VOCABULARY, max_length=20)),
        targets=(TokenTarget(name="next", vocab_size=VOCABULARY, of="written"),),
    )
    nodes = Nodes(
        ENCODERS.check_node({"name": "gru", "dim": 16, "depth": 1}, "e"),
        DECODERS.check_node({"name": "gru"}, "d"),
        HEADS.check_node({"name": "next_token"}, "h"),
    )
    torch.manual_seed(0)
    model = build_model(nodes, spec).eval()
    for parameter in model.parameters():
        parameter.mul_(6)
    mask = torch.arange(8) < torch.tensor([8, 3, 5])[:, None]
    features = model.encode({"text": Values(torch.randint(1, 40, (3, 8)), mask)})
    for sampling in (Sampling(max_tokens=10), Sampling(max_tokens=10, beams=3)):
        kept, whole = (
            translations(model, features, ByteTokenizer(), [1], sampling, limit=20, places=range(3), device=CPU, cached=cached) for cached in (True, False)
        )
        assert kept == whole
