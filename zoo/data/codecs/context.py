"""The words around each word of a text.

Letters: N positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import list_of, strict
from zoo.data.codecs.text import TextCodec
from zoo.errors import CheckpointError, DataError
from zoo.specs import ContextTarget


class ContextCodec:
    """A text's own words, and how often each occurs in the training split. Special tokens, the unknown one included, are no words.

    Args:
        name: of the target.
        text: codec of the input that the words are of; None until ``connect``.
        source: that input's name.
        counts: occurrences of each identifier.
    """

    kind: ClassVar[str] = "context"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = -1

    def __init__(self, *, name: str, text: TextCodec | None = None, source: str = "text", counts: Sequence[int] = ()) -> None:
        self.name, self.text, self.source, self.counts = name, text, source if text is None else text.name, tuple(counts)
        self._special: frozenset[int] | None = None

    @property
    def spec(self) -> ContextTarget:
        return ContextTarget(name=self.name, vocab_size=self._text.tokenizer.vocab_size, counts=self.counts, of=self.source)

    @property
    def sketch(self) -> ContextTarget:
        """Before the data is read."""
        return replace(self.spec, provisional=("counts",))

    @property
    def _text(self) -> TextCodec:
        assert self.text is not None, "connect() comes first"
        return self.text

    @property
    def special(self) -> frozenset[int]:
        """Identifiers that stand for no text."""
        if self._special is None:
            tokenizer = self._text.tokenizer
            self._special = frozenset(number for number in range(tokenizer.vocab_size) if not tokenizer.decode([number]))
        return self._special

    def counted(self, texts: Iterable[str]) -> "ContextCodec":
        """With the counts of these texts, as far as the input holds them.

        Raises:
            DataError: where they hold no word.
        """
        counts = torch.zeros(self._text.tokenizer.vocab_size, dtype=torch.int64)
        for text in texts:
            counts += torch.bincount(torch.tensor(self._text.ids(text)), minlength=len(counts))
        counts[list(self.special)] = 0
        if not counts.any():
            raise DataError(
                f"target {self.name!r}: the training split's texts hold no word of the vocabulary; they are empty, or the tokenizer knows none of them"
            )
        return ContextCodec(name=self.name, text=self.text, counts=counts.tolist())

    def encode(self, raw: Any) -> Encoded:
        """``{"values": N}``."""
        if is_missing(raw) or not isinstance(raw, str):
            raise DataError(f"target {self.name!r} is {'empty' if is_missing(raw) else f'no text but {type(raw).__name__}'}: it has no words")
        return {"values": torch.tensor([self.pad if number in self.special else number for number in self._text.ids(raw)])}

    def ask(self, row: Mapping[str, Any]) -> Encoded:
        """Which positions of a text are words: its vector is that of these.

        Raises:
            DataError: for a text without any.
        """
        encoded = self.encode(row[self.source])
        if bool((encoded["values"] == self.pad).all()):
            raise DataError("none of its words is in the model's vocabulary")
        return encoded

    def state(self) -> dict[str, Any]:
        return {"text": self.source, "counts": list(self.counts)}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "ContextCodec":  # noqa: ARG003
        strict(state, name, text=str, counts=list)
        counts = list_of(state["counts"], int, f"{name}.counts")
        if min(counts, default=0) < 0:
            raise CheckpointError(f"processor.json: {name}.counts has negative numbers")
        return cls(name=name, source=state["text"], counts=counts)

    def connect(self, inputs: Mapping[str, Any]) -> None:
        """Find the text that the state names."""
        codec = inputs.get(self.source)
        if not isinstance(codec, TextCodec):
            raise CheckpointError(f"processor.json: target {self.name!r} is of the text {self.source!r}, which is no text among the inputs")
        self.text = codec
