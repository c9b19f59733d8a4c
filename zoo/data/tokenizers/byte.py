"""Bytes as tokens (Xue et al., 2022, ByT5, https://arxiv.org/abs/2105.13626): no vocabulary to fit, no text that it cannot hold."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from zoo.errors import CheckpointError
from zoo.registry import TOKENIZERS

BEGIN, END, OFFSET = 1, 2, 3


@TOKENIZERS.register("byte")
class ByteTokenizer:
    """UTF-8 bytes: 0 pads, 1 begins, 2 ends, byte b is 3 + b; 259 identifiers, nothing to train."""

    kind: ClassVar[str] = "byte"

    def __init__(self) -> None:
        self.vocab_size, self.pad_id = 256 + OFFSET, 0

    def train(self, texts: Sequence[str]) -> None:
        pass

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        content = text.encode("utf-8", "replace")
        if max_length is not None:
            content = content[: room(max_length)]
        return [BEGIN, *(OFFSET + byte for byte in content), END]

    def prompt(self, text: str) -> list[int]:
        return self.encode(text)[:-1]

    @property
    def begin_id(self) -> int:
        return BEGIN

    @property
    def end_id(self) -> int:
        return END

    def cut_at(self, text: str, max_length: int) -> int | None:
        return room(max_length) if len(text.encode("utf-8", "replace")) > room(max_length) else None

    def offsets(self, text: str, max_length: int | None = None) -> list[tuple[int, int]]:
        places = [(place, place + 1) for place, letter in enumerate(text) for _ in letter.encode("utf-8", "replace")]
        return [(0, 0), *(places if max_length is None else places[: room(max_length)]), (0, 0)]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token - OFFSET for token in ids if OFFSET <= token < self.vocab_size).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps({"type": self.kind}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ByteTokenizer":
        path = folder / "tokenizer.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if found != {"type": cls.kind}:
            raise CheckpointError(f"{path} is no byte tokenizer's")
        return cls()


def room(max_length: int) -> int:
    """Bytes between the special tokens."""
    return max(0, max_length - 2)
