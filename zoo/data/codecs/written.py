"""A text that a decoder writes: what it has written so far as an input, and the token that follows each place as the target.

Letters: N positions.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded, Tokenizer
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import strict
from zoo.errors import CheckpointError, DataError, RegistryError
from zoo.registry import TOKENIZERS
from zoo.specs import TokenTarget, WrittenInput
from zoo.structs import Values


class Start(StrEnum):
    """The token that a decoder begins with."""

    AUTO = "auto"  # what opens every text in its tokenizer; padding, where nothing does
    PAD = "pad"  # T5
    END = "end"  # BART


class WrittenCodec:
    """A text's tokens, one place later: each place has what was written before it.

    Args:
        name: of the input.
        tokenizer: trained by ``fit``, or loaded; it has to close its texts.
        max_length: tokens at most, special ones included; what follows is cut off.
        start: the first token. With auto and a tokenizer that opens its texts, that opening is given and not asked for.
    """

    kind: ClassVar[str] = "written"
    ragged: ClassVar[str | None] = "tokens"

    def __init__(self, *, name: str, tokenizer: Tokenizer, max_length: int, start: Start = Start.AUTO) -> None:
        if max_length < 3:
            raise ValueError(f"max_length={max_length} tokens leave no room for text between the special tokens; 3 or more")
        self.name, self.tokenizer, self.max_length, self.start = name, tokenizer, max_length, start
        self._last: tuple[str, list[int]] | None = None

    def fit(self, texts: Sequence[str]) -> None:
        """Train the tokenizer, where it is this text's alone."""
        self.tokenizer.train(texts)
        self.check()

    def check(self) -> None:
        """Raises:
        DataError: where the tokenizer, trained by now, does not close its texts: nothing would tell a decoder to stop.
        """
        if self.tokenizer.end_id is None:
            raise DataError(f"the tokenizer of {self.name!r} closes no text, so that what is written would never end; choose tokenizer=bpe, byte or wordpiece")

    @property
    def pad(self) -> int:
        return self.tokenizer.pad_id

    @property
    def spec(self) -> WrittenInput:
        return WrittenInput(name=self.name, vocab_size=self.tokenizer.vocab_size, max_length=self.max_length, pad_id=self.tokenizer.pad_id)

    def opening(self) -> list[int]:
        """What a decoder begins with."""
        match self.start:
            case Start.PAD:
                return [self.tokenizer.pad_id]
            case Start.END:
                assert self.tokenizer.end_id is not None, "fit() refuses such tokenizers"
                return [self.tokenizer.end_id]
            case Start.AUTO:
                return [self.tokenizer.pad_id if self.tokenizer.begin_id is None else self.tokenizer.begin_id]

    def ids(self, raw: str) -> tuple[list[int], list[int]]:
        """What stands before each place, and what is to be written there. The last text's are kept: an input and a target are made of the same."""
        last = self._last
        if last is None or last[0] != raw:
            whole = self.tokenizer.encode(raw, self.max_length)
            opening = self.opening()
            if self.start is not Start.AUTO or whole[:1] != opening:
                whole = opening + whole
            self._last = last = raw, whole[: self.max_length + 1]
        return last[1][:-1], last[1][1:]

    def encode(self, raw: Any) -> Encoded:
        return {"values": torch.tensor(self.ids(text_of(raw, self.name))[0])}

    def finish(self, values: Values) -> Values:
        return values

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.kind, "max_length": self.max_length, "start": str(self.start)}

    def save_files(self, folder: Path) -> None:
        self.tokenizer.save(folder)

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "WrittenCodec":
        strict(state, name, tokenizer=str, max_length=int, start=str)
        try:
            kind = TOKENIZERS.load(state["tokenizer"])
        except RegistryError as error:
            raise CheckpointError(f"processor.json: {name}.tokenizer: {error}") from error
        return cls(name=name, tokenizer=kind.load(folder / name), max_length=state["max_length"], start=Start(state["start"]))  # type: ignore[attr-defined]


class WrittenTokenCodec:
    """What is to be written at each place.

    Args:
        name: of the target.
        written: codec of the input that it goes with; None until ``connect``.
        source: that input's name.
    """

    kind: ClassVar[str] = "written_token"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = -1

    def __init__(self, *, name: str, written: WrittenCodec | None = None, source: str = "written") -> None:
        self.name, self.written, self.source = name, written, source if written is None else written.name

    @property
    def text(self) -> WrittenCodec:
        assert self.written is not None, "connect() comes first"
        return self.written

    @property
    def spec(self) -> TokenTarget:
        return TokenTarget(name=self.name, vocab_size=self.text.tokenizer.vocab_size, of=self.source)

    def encode(self, raw: Any) -> Encoded:
        """``{"values": N, "bytes": 1}``. Where a text was cut, the token that closes it is not asked for: it does not end there."""
        text = text_of(raw, self.name)
        codec, following = self.text, list(self.text.ids(text)[1])
        held = codec.tokenizer.cut_at(text, codec.max_length) if len(following) >= codec.max_length - 1 else None
        if held is not None and following[-1] == codec.tokenizer.end_id:
            following[-1] = self.pad
        size = len(text.encode("utf-8", "replace")) if held is None else held
        return {"values": torch.tensor(following), self.spec.bytes: torch.tensor([size])}

    def state(self) -> dict[str, Any]:
        return {"written": self.source}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "WrittenTokenCodec":  # noqa: ARG003
        strict(state, name, written=str)
        return cls(name=name, source=state["written"])

    def connect(self, inputs: Mapping[str, Any]) -> None:
        """Find the input that the state names."""
        codec = inputs.get(self.source)
        if not isinstance(codec, WrittenCodec):
            raise CheckpointError(f"processor.json: target {self.name!r} is written after {self.source!r}, which is no such input")
        self.written = codec


def text_of(raw: Any, name: str) -> str:
    if is_missing(raw) or not isinstance(raw, str):
        raise DataError(f"{name!r} is {'empty' if is_missing(raw) else f'no text but {type(raw).__name__}'}: there is nothing to write")
    return raw
