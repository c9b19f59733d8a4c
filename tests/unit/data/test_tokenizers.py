"""Tokenizers: deterministic training, round trips, lengths, loading."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.base import Tokenizer
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import CheckpointError

TEXTS = ["the cat sat on the mat", "a dog sat on a log", "The CAT and the dog, café naïve zoo", "numbers 12 and 345!"] * 5


def trained() -> list[Tokenizer]:
    tokenizers: list[Tokenizer] = [ByteTokenizer(), BpeTokenizer(vocab_size=300), WordPieceTokenizer(vocab_size=150)]
    for tokenizer in tokenizers:
        tokenizer.train(TEXTS)
    return tokenizers


@given(text=st.text())
def test_bytes_give_any_text_back(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


def test_bpe_gives_any_text_back() -> None:
    tokenizer = trained()[1]
    for text in [*TEXTS, "", " spaces  inside ", "日本語 🎉", "tab\tand\nline"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_wordpiece_cuts_words_as_bert_does() -> None:
    tokenizer = trained()[2]
    assert isinstance(tokenizer, WordPieceTokenizer)
    assert tokenizer.decode(tokenizer.encode("The CAT sat on the mat")) == "the cat sat on the mat"
    ids = tokenizer.encode("cat 中")
    assert (ids[0], ids[-1]) == (2, 3)
    assert 1 in ids  # what cannot be cut
    assert tokenizer.library.token_to_id("[PAD]") == 0


def test_identifiers_stay_inside_the_vocabulary_and_lengths_inside_the_limit() -> None:
    for tokenizer in trained():
        for text in [*TEXTS, "", "\ud800 lone", "x" * 500, "日本語"]:
            ids = tokenizer.encode(text)
            assert ids
            assert 0 <= min(ids) <= max(ids) < tokenizer.vocab_size
            cut = tokenizer.encode(text, 8)
            assert len(cut) <= 8
            assert (cut[0], cut[-1]) == (ids[0], ids[-1])  # special tokens survive the cut
            assert cut[:-1] == ids[: len(cut) - 1]


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    for tokenizer in trained():
        tokenizer.save(tmp_path / tokenizer.kind)
        again = type(tokenizer).load(tmp_path / tokenizer.kind)
        assert (again.vocab_size, again.pad_id) == (tokenizer.vocab_size, tokenizer.pad_id)
        assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
        again.train(["something else"])  # harmless once loaded
        assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


SCRIPT = """
import hashlib, sys, tempfile, pathlib
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
words = [chr(97 + number * 7 % 26) + chr(97 + number * 11 % 26) + "ing" * (number % 3) for number in range(400)]
for tokenizer in (BpeTokenizer(vocab_size=400), WordPieceTokenizer(vocab_size=200)):
    tokenizer.train([" ".join(words[start:start + 9]) for start in range(0, 400, 5)])
    folder = pathlib.Path(tempfile.mkdtemp()); tokenizer.save(folder)
    print(hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest())
"""


def test_training_is_the_same_in_every_process() -> None:
    """The library's own WordPiece training is not: its hash maps order ties differently from run to run."""
    runs = {subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1
    assert len(runs.pop().split()) == 2


def test_loading_a_published_file_instead_of_training(tmp_path: Path) -> None:
    source = trained()[1]
    source.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = BpeTokenizer(path=str(path))
        loaded.train(["not used"])
        assert loaded.encode(TEXTS[0]) == source.encode(TEXTS[0])


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    for kind in (ByteTokenizer, BpeTokenizer, WordPieceTokenizer):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            kind.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    for kind in (ByteTokenizer, BpeTokenizer, WordPieceTokenizer):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            kind.load(tmp_path)


def test_vocabularies_too_small_for_the_alphabet() -> None:
    with pytest.raises(ValueError, match="259"):
        BpeTokenizer(vocab_size=258)
    with pytest.raises(ValueError, match="100"):
        WordPieceTokenizer(vocab_size=99)


def test_hash_is_stable() -> None:
    """The trained file is a published artefact; a change of format has to be noticed."""
    tokenizer = ByteTokenizer()
    assert hashlib.sha256(bytes(tokenizer.encode("zoo"))).hexdigest() == hashlib.sha256(bytes([1, 125, 114, 114, 2])).hexdigest()
