"""Text -> token identifiers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded, Tokenizer
from zoo.data.codecs.state import strict
from zoo.data.tokens import Tokens
from zoo.errors import CheckpointError, DataError, RegistryError
from zoo.registry import TOKENIZERS
from zoo.specs import TextInput
from zoo.structs import Values


class TextCodec:
    """Tokenise and cut to length.

    Args:
        name: of the input.
        tokenizer: trained by ``fit``, or loaded.
        max_length: tokens at most, special ones included; what follows is cut off.
    """

    kind: ClassVar[str] = "text"
    ragged: ClassVar[str | None] = "tokens"

    def __init__(self, *, name: str, tokenizer: Tokenizer, max_length: int) -> None:
        if max_length < 3:
            raise ValueError(f"max_length={max_length} tokens leave no room for text between the special tokens; 3 or more")
        self.name, self.tokenizer, self.max_length = name, tokenizer, max_length
        self._last: tuple[str, list[int]] | None = None

    def fit(self, texts: Sequence[str]) -> None:
        """Train the tokenizer on the training split's texts."""
        self.tokenizer.train(texts)

    @property
    def pad(self) -> int:
        return self.tokenizer.pad_id

    @property
    def spec(self) -> TextInput:
        return TextInput(name=self.name, vocab_size=self.tokenizer.vocab_size, max_length=self.max_length, pad_id=self.tokenizer.pad_id)

    def encode(self, raw: Any) -> Encoded:
        if isinstance(raw, Tokens):
            return {"values": raw.ids}
        if not isinstance(raw, str):
            raise DataError(f"a text is a string, not {type(raw).__name__}")
        return {"values": torch.tensor(self.ids(raw))}

    def ids(self, raw: str) -> list[int]:
        """Of a text; the last one's are kept, for a target that is made of the same."""
        last = self._last
        if last is None or last[0] != raw:
            self._last = last = raw, self.tokenizer.encode(raw, self.max_length)
        return last[1]

    def cut_at(self, raw: str) -> int | None:
        """Bytes of UTF-8 that are left of a text that was cut; None for one that was not. Shorter ones are not encoded again to find out."""
        return self.tokenizer.cut_at(raw, self.max_length) if len(self.ids(raw)) >= self.max_length else None

    def finish(self, values: Values) -> Values:
        return values

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.kind, "max_length": self.max_length}

    def save_files(self, folder: Path) -> None:
        self.tokenizer.save(folder)

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "TextCodec":
        strict(state, name, tokenizer=str, max_length=int)
        try:
            kind = TOKENIZERS.load(state["tokenizer"])
        except RegistryError as error:
            raise CheckpointError(f"processor.json: {name}.tokenizer: {error}") from error
        return cls(name=name, tokenizer=kind.load(folder / name), max_length=state["max_length"])  # type: ignore[attr-defined]
