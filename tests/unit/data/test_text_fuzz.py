"""Odd texts through every tokenizer: identifiers that are there, places that are in the text, bytes that come back; a million characters too."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.odd_texts import MILLION, ODD
from zoo.data.datasets.table import Table
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.tokenizers.character import CharacterTokenizer
from zoo.data.tokenizers.unigram import UnigramTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.data.tokenizers.words import WordsTokenizer

TEXTS = ["some text, día and night 🙂", "the cat sat on the mat and the dog on the log"] * 10


def trained() -> list[Any]:
    tokenizers = [
        BpeTokenizer(vocab_size=300),
        ByteTokenizer(),
        CharacterTokenizer(),
        UnigramTokenizer(vocab_size=320),
        WordPieceTokenizer(vocab_size=100),
        WordsTokenizer(min_frequency=1),
    ]
    for tokenizer in tokenizers:
        tokenizer.train(TEXTS)
    return tokenizers


EACH = pytest.mark.parametrize("tokenizer", trained(), ids=lambda tokenizer: tokenizer.kind)


def checked(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids
    assert 0 <= min(ids) <= max(ids) < tokenizer.vocab_size
    offsets = tokenizer.offsets(text)
    assert len(offsets) in (len(ids), 0)
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    short = tokenizer.encode(text, 10)
    assert 0 < len(short) <= 10
    held = tokenizer.cut_at(text, 10)
    whole = len(text.encode("utf-8", "replace"))
    assert (held is None) == (len(short) == len(ids)) or tokenizer.kind == "words"
    assert held is None or 0 <= held <= whole
    prompt = tokenizer.prompt(text)
    assert prompt == ids[: len(prompt)]
    said = tokenizer.decode(ids)
    said.encode("utf-8")  # what is told can be written
    if tokenizer.kind in ("bpe", "byte"):
        assert said == text.encode("utf-8", "replace").decode() or any(token in text for token in ("<pad>", "<bos>", "<eos>"))


@EACH
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts(tokenizer: Any, text: str) -> None:
    checked(tokenizer, text)


@EACH
def test_a_million_characters(tokenizer: Any) -> None:
    checked(tokenizer, MILLION)


@EACH
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_training_on_odd_texts(tokenizer: Any, text: str) -> None:
    fresh = type(tokenizer)() if tokenizer.kind == "byte" else type(tokenizer)(**{"words": {"min_frequency": 1}}.get(tokenizer.kind, {}))
    fresh.train([*TEXTS, text])
    checked(fresh, text)
    checked(fresh, TEXTS[0])


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_odd_cells_of_tables(tmp_path: Path, kind: str) -> None:
    """Each cell is the text that was written, or one that says that it is empty."""
    import csv

    path = tmp_path / f"rows.{kind}"
    rows = [{"text": text, "label": "ab"[place % 2]} for place, text in enumerate(ODD.values())]
    if kind == "csv":
        rows = [row for row in rows if (not any(letter in row["text"] for letter in "\x00\r") and row["text"].isprintable()) or row["text"] == ""]
        with path.open("w", encoding="utf-8", newline="", errors="replace") as stream:
            writer = csv.DictWriter(stream, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        content = "\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows)
        path.write_text(content)  # lone surrogates as \ud800
    opened = Table(path=str(path), text="text", target="label", validation=0.0, test=0.0, tokenizer=ByteTokenizer(), max_length=64).open()
    split = opened.splits["train"]
    codec: Any = opened.inputs["text"]
    assert len(split) == len(rows)
    for place, row in enumerate(rows):
        if not row["text"]:
            continue
        raw = split.read(place)["text"]
        assert raw == row["text"] or raw.encode("utf-8", "replace") == row["text"].encode("utf-8", "replace")
        assert 2 <= len(codec.encode(raw)["values"]) <= 64
