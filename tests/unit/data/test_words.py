"""The tokenizer of whole words, and the target that is made of a text's own."""

from collections import Counter
from pathlib import Path

import pytest

from zoo.data.codecs.context import ContextCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.words import WordsTokenizer
from zoo.errors import DataError

TEXTS = ["The cat saw the dog.", "The dog, the cat -- and Élan’s 42 cats!", "don't"]


def trained(**options: int) -> WordsTokenizer:
    tokenizer = WordsTokenizer(**options)  # type: ignore[arg-type]
    tokenizer.train(TEXTS)
    return tokenizer


def test_words_are_those_of_a_regular_expression(tmp_path: Path) -> None:
    """Python's own, over lower-case text; by count, then by name."""
    import re

    words = Counter(re.findall(r"\w+(?:['’]\w+)*", " ".join(TEXTS).lower()))
    tokenizer = trained(min_frequency=1)
    vocabulary = tokenizer.library.get_vocab()
    expected = sorted(words, key=lambda word: (-words[word], word))
    assert [word for word, _ in sorted(vocabulary.items(), key=lambda entry: entry[1])] == ["[PAD]", "[UNK]", *expected]
    tokenizer.save(tmp_path)
    again = WordsTokenizer.load(tmp_path)
    assert again.encode("The DOG barks") == tokenizer.encode("the dog barks") == [2, vocabulary["dog"], 1]
    assert again.vocab_size == len(vocabulary)


def test_rare_words_and_those_beyond_the_size_are_unknown() -> None:
    assert set(trained(min_frequency=2).library.get_vocab()) == {"[PAD]", "[UNK]", "the", "cat", "dog"}
    assert set(trained(min_frequency=1, vocab_size=3).library.get_vocab()) == {"[PAD]", "[UNK]", "the"}


@pytest.mark.parametrize(("options", "message"), [({"vocab_size": 2}, "leave no word"), ({"min_frequency": 0}, "1 or more")])
def test_refusals(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordsTokenizer(**options)  # type: ignore[arg-type]


def test_context_counts_and_encodes_words_alone() -> None:
    text = TextCodec(name="text", tokenizer=trained(min_frequency=2), max_length=20)
    codec = ContextCodec(name="context", text=text).counted(TEXTS)
    assert codec.spec.counts == (0, 0, 4, 2, 2)
    assert codec.encode("the zebra saw the cat")["values"].tolist() == [2, -1, -1, 2, 3]
    again = ContextCodec.from_state("context", codec.state(), Path())
    again.connect({"text": text})
    assert again.spec == codec.spec
    with pytest.raises(DataError, match="none of its words"):
        codec.ask({"text": "zebra"})
    with pytest.raises(DataError, match="hold no word"):
        ContextCodec(name="context", text=text).counted(["zebra"])


def test_what_opens_and_closes_a_text_is_no_word() -> None:
    tokenizer = BpeTokenizer(vocab_size=300)
    tokenizer.train(TEXTS)
    codec = ContextCodec(name="context", text=TextCodec(name="text", tokenizer=tokenizer, max_length=50))
    values = codec.encode("the cat")["values"].tolist()
    assert values[0] == values[-1] == -1
    assert min(values[1:-1]) >= 0
