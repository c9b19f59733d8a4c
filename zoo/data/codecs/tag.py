"""A label for every word of a text: parts of speech, or names and other spans by BIO (Ramshaw and Marcus, 1995, https://aclanthology.org/W95-0107).

Letters: N positions.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded, Tokenizer
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import list_of, strict
from zoo.data.codecs.text import TextCodec
from zoo.errors import CheckpointError, DataError
from zoo.specs import TagTarget

WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]")
"""A word of running text, or a sign."""
OUTSIDE = "O"


class WordsCodec(TextCodec):
    """A text as words: a list of them as it is, running text cut into words and signs. A model sees them with a space between.

    Args:
        name: of the input.
        tokenizer: trained by ``fit``, or loaded; one that knows where its tokens stand.
        max_length: tokens at most, special ones included; what follows is cut off.
    """

    kind: ClassVar[str] = "words"

    def encode(self, raw: Any) -> Encoded:
        return {"values": torch.tensor(self.ids(" ".join(words_of(raw)[0])))}


class TagCodec:
    """A word's label at the first of its tokens, nothing at the others.

    Args:
        name: of the target.
        labels: in the order of the model's outputs.
        words: codec of the input; None until ``connect``.
        source: that input's name.
    """

    kind: ClassVar[str] = "tags"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = -1

    def __init__(self, *, name: str, labels: Sequence[str], words: WordsCodec | None = None, source: str = "text") -> None:
        self.name, self.labels, self.words, self.source = name, tuple(labels), words, source if words is None else words.name
        self._index = {label: number for number, label in enumerate(labels)}

    @classmethod
    def fit(cls, name: str, raws: Iterable[Any], words: WordsCodec) -> "TagCodec":
        """The labels of the training split, sorted, what is outside of all spans first."""
        labels = {tag for raw in raws if raw is not None for tag in tags_of(raw)}
        if len(labels) < 2:
            raise DataError(f"target {name!r} has {len(labels)} label in the training split ({', '.join(labels) or 'none'}); two or more are needed")
        return cls(name=name, labels=sorted(labels, key=lambda label: (label != OUTSIDE, label)), words=words)

    @property
    def spec(self) -> TagTarget:
        return TagTarget(name=self.name, labels=self.labels, of=self.source)

    @property
    def text(self) -> WordsCodec:
        assert self.words is not None, "connect() comes first"
        return self.words

    def encode(self, raw: Any) -> Encoded:
        """``{"words": ..., "tags": ...}`` -> ``{"values": N}``. Words that were cut off have no place."""
        if not isinstance(raw, Mapping) or is_missing(raw.get("tags")):
            raise DataError(f"target {self.name!r} is empty")
        words, tags = words_of(raw["words"])[0], tags_of(raw["tags"])
        if len(words) != len(tags):
            raise DataError(f"target {self.name!r}: {len(tags)} tags for {len(words)} words")
        if unknown := [tag for tag in tags if tag not in self._index]:
            raise DataError(f"tag {unknown[0]!r} of {self.name!r} does not occur in the training split; {len(self._index)} are known")
        return self._placed(words, [self._index[tag] for tag in tags])

    def _placed(self, words: Sequence[str], values: Sequence[int]) -> Encoded:
        """Values at the first token of each word."""
        codec = self.text
        places = first_tokens(codec.tokenizer, words, codec.max_length)
        found = torch.full((len(codec.ids(" ".join(words))),), self.pad)
        kept = [(place, value) for place, value in zip(places, values, strict=True) if place is not None]
        if kept:
            found[[place for place, _ in kept]] = torch.tensor([value for _, value in kept])
        return {"values": found}

    def ask(self, row: Mapping[str, Any]) -> Encoded:
        """For a text without tags: which places are asked for."""
        words, _ = words_of(row[self.source])
        return self._placed(words, [0] * len(words))

    def present(self, answer: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """Words with their tags and places in the text as it was given, and the spans that BIO tags make."""
        words, places = words_of(row[self.source])
        codec = self.text
        kept = [number for number, place in enumerate(first_tokens(codec.tokenizer, words, codec.max_length)) if place is not None]
        told = [
            {"word": words[number], "tag": tag, "probability": share, "start": places[number][0], "end": places[number][1]}
            for number, tag, share in zip(kept, answer["tags"], answer["shares"], strict=True)
        ]
        found: dict[str, Any] = {"words": told}
        if self.spec.bio:
            found["spans"] = spans_of(told, row[self.source])
        if len(kept) < len(words):
            found["note"] = f"the text is longer than the model holds ({codec.max_length} tokens): its last {len(words) - len(kept)} words have no tag"
        return found

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "text": self.source}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "TagCodec":  # noqa: ARG003
        strict(state, name, labels=list, text=str)
        return cls(name=name, labels=list_of(state["labels"], str, f"{name}.labels"), source=state["text"])

    def connect(self, inputs: Mapping[str, Any]) -> None:
        """Find the input that the state names."""
        codec = inputs.get(self.source)
        if not isinstance(codec, WordsCodec):
            raise CheckpointError(f"processor.json: target {self.name!r} is of the words of {self.source!r}, which is no such input")
        self.words = codec


def listed(raw: Any) -> Any:
    """A list of texts that a table's cell holds as JSON; anything else as it is."""
    if not isinstance(raw, str) or not raw.startswith("["):
        return raw
    try:
        found = json.loads(raw)
    except ValueError:
        return raw  # running text may begin with a bracket
    return found if isinstance(found, list) and all(isinstance(entry, str) for entry in found) else raw


def words_of(raw: Any) -> tuple[list[str], list[tuple[int, int]]]:
    """Words, and where each stands in the text, from and up to; in a list as if there were a space between.

    Raises:
        DataError: for what is neither words nor a text.
    """
    raw = listed(raw)
    if isinstance(raw, list | tuple):
        words = [str(word).strip() for word in raw]
        if not words or not all(words) or any(len(word.split()) > 1 for word in words):
            raise DataError("a list of words is needed, none of them empty and none with a space in it")
        starts = [0]
        for word in words[:-1]:
            starts.append(starts[-1] + len(word) + 1)
        return words, [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]
    if not isinstance(raw, str):
        raise DataError(f"a text or a list of words is needed, not {type(raw).__name__}")
    found = list(WORD.finditer(raw))
    if not found:
        raise DataError("the text has no word")
    return [match.group() for match in found], [match.span() for match in found]


def tags_of(raw: Any) -> list[str]:
    """A list of tags, or one string of them with spaces between."""
    raw = listed(raw)
    return raw.split() if isinstance(raw, str) else [str(tag) for tag in raw]


def first_tokens(tokenizer: Tokenizer, words: Sequence[str], max_length: int) -> list[int | None]:
    """The place of each word's first token; None for words that were cut off, or of which the tokenizer makes nothing."""
    places: list[int | None] = [None] * len(words)
    ends: list[int] = []
    for word in words:
        ends.append((ends[-1] + 1 if ends else 0) + len(word))
    number = 0
    for place, (start, end) in enumerate(tokenizer.offsets(" ".join(words), max_length)):
        if end <= start:  # a special token
            continue
        while number < len(words) - 1 and end > ends[number]:  # a token belongs to the word that its last letter is of
            number += 1
        if places[number] is None and end > ends[number] - len(words[number]):  # not the space before it alone
            places[number] = place
    return places


def spans_of(words: Sequence[Mapping[str, Any]], raw: Any) -> list[dict[str, Any]]:
    """Spans of BIO tags, as seqeval finds them: I after another kind, or after O, begins one too."""
    found: list[dict[str, Any]] = []
    before = OUTSIDE
    for word in words:
        prefix, _, kind = str(word["tag"]).partition("-")
        if prefix in ("B", "I"):
            if prefix == "B" or before != kind:
                found.append({"kind": kind, "start": word["start"], "end": word["end"]})
            else:
                found[-1]["end"] = word["end"]
        before = kind if prefix in ("B", "I") else OUTSIDE
    raw = listed(raw)
    whole = raw if isinstance(raw, str) else " ".join(map(str, raw))
    return [{"text": whole[span["start"] : span["end"]], **span} for span in found]
