"""Texts that a decoder writes: what stands before each place, and what is to be written there."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.build import build_model
from zoo.data.codecs.written import Start, WrittenCodec, WrittenTokenCodec
from zoo.data.datasets.table import Table, TargetKind
from zoo.data.processor import Processor
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.byte import BEGIN, END, ByteTokenizer
from zoo.errors import ConfigError, DataError
from zoo.specs import WrittenInput

ROWS = [{"source": f"gato {number}", "wanted": f"cat number {number}", "id": number} for number in range(40)]


def table(tmp_path: Path, rows: Any = ROWS, **options: Any) -> Table:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return Table(path=str(path), text="source", target="wanted", target_kind=TargetKind.TEXT, max_length=24, **options)


@pytest.mark.parametrize(("start", "first"), [(Start.AUTO, None), (Start.PAD, 0), (Start.END, END)])
def test_each_place_has_what_was_written_before_it(start: Start, first: int | None) -> None:
    codec = WrittenCodec(name="written", tokenizer=ByteTokenizer(), max_length=20, start=start)
    target = WrittenTokenCodec(name="next", written=codec)
    before, wanted = codec.encode("día")["values"].tolist(), target.encode("día")["values"].tolist()
    letters = [3 + byte for byte in "día".encode()]
    whole = [BEGIN, *letters, END]
    if first is None:  # the opening is there from the start: nobody has to write it
        assert (before, wanted) == (whole[:-1], whole[1:])
    else:
        assert (before, wanted) == ([first, *whole[:-1]], whole)
    assert target.encode("día")["bytes"].tolist() == [4]


def test_what_was_cut_off_does_not_end() -> None:
    codec = WrittenCodec(name="written", tokenizer=ByteTokenizer(), max_length=8)
    target = WrittenTokenCodec(name="next", written=codec).encode("abcdefghijk")
    assert target["values"].tolist() == [*(3 + byte for byte in b"abcdef"), -1]
    assert target["bytes"].tolist() == [6]
    assert len(codec.encode("abcdefghijk")["values"]) == 7


def test_one_vocabulary_of_both_texts_unless_another_is_asked_for(tmp_path: Path) -> None:
    data = table(tmp_path, tokenizer=BpeTokenizer(vocab_size=300)).open()
    written: Any = data.inputs["written"]
    assert written.tokenizer is data.inputs["text"].tokenizer  # type: ignore[attr-defined]
    assert len(written.tokenizer.encode(" number")) == 3, "a merge of the written texts"
    assert len(written.tokenizer.encode("gato")) == 3, "and of those that are read"
    own = table(tmp_path, tokenizer=ByteTokenizer(), target_tokenizer=BpeTokenizer(vocab_size=300)).open()
    assert own.spec.input("text").vocab_size == 259  # type: ignore[attr-defined]
    assert own.spec.input("written").vocab_size > 259  # type: ignore[attr-defined]


def test_a_bundle_keeps_it(tmp_path: Path) -> None:
    data = table(tmp_path, target_max_length=11, target_start=Start.PAD).open()
    Processor.of(data).save(tmp_path / "processor")
    again = Processor.load(tmp_path / "processor")
    assert again.spec == data.spec
    found: Any = again.inputs["written"]
    assert (found.start, found.max_length) == (Start.PAD, 11)
    rows = [{"text": "gato", "written": "cat number 3", "next": "cat number 3"}]
    for name in ("written", "next"):
        mine, other = (processor.batch(rows, with_targets=True) for processor in (Processor.of(data), again))
        first, second = ((batch.targets if name == "next" else {name: batch.inputs[name].values for name in batch.inputs})[name] for batch in (mine, other))
        assert first.tolist() == second.tolist()


def test_empty_texts_are_no_samples(tmp_path: Path) -> None:
    data = table(tmp_path, [*ROWS, {"source": "perro", "wanted": "", "id": 41}], split_by="id").open()
    codec = data.targets["next"]
    with pytest.raises(DataError, match="'next' is empty: there is nothing to write"):
        codec.encode("")


def test_options_of_a_written_text_without_one_are_refused(tmp_path: Path) -> None:
    for options, said in (
        ({"target_max_length": 5}, "target_max_length"),
        ({"target_tokenizer": ByteTokenizer()}, "target_tokenizer"),
        ({"target_start": Start.END}, "target_start=end"),
    ):
        with pytest.raises(ValueError, match=said):
            Table(path="x.csv", text="a", target="b", **options)  # type: ignore[arg-type]


def spec(kind: str) -> Any:
    return Table(path="x.jsonl", text="a", target="a" if kind == "next_token" else "b", target_kind=TargetKind(kind)).sketch()


def test_a_decoder_that_writes_and_data_that_is_written_need_each_other() -> None:
    from zoo.build import Nodes
    from zoo.registry import DECODERS, ENCODERS, HEADS

    encoder = ENCODERS.check_node({"name": "transformer", "attention": "causal"}, "model.encoder")
    head = HEADS.check_node({"name": "next_token"}, "model.head")
    nodes = {name: Nodes(encoder, DECODERS.check_node({"name": name}, "model.decoder"), head) for name in ("none", "transformer")}
    model = build_model(nodes["transformer"], spec("text"))
    assert (model.inputs, model.written, model.takes) == (("text",), "written", ("text", "written"))
    assert isinstance(spec("text").input("written"), WrittenInput)
    with pytest.raises(ConfigError, match=r"decoder 'transformer' writes a text, and the data tells none to write(.|\n)*data\.target_kind=text"):
        build_model(nodes["transformer"], spec("next_token"))
    with pytest.raises(ConfigError, match=r"the target is the text 'written', which the model does not take(.|\n)*model/decoder=gru\|transformer"):
        build_model(nodes["none"], spec("text"))
