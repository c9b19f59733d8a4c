"""The token that follows each position of a text.

Letters: N positions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import strict
from zoo.data.codecs.text import TextCodec
from zoo.data.tokens import Tokens
from zoo.errors import CheckpointError, DataError
from zoo.specs import TokenTarget


class NextTokenCodec:
    """A text's own tokens, one place earlier.

    Args:
        name: of the target.
        text: codec of the input that the tokens are of; None until ``connect``.
        source: that input's name.
    """

    kind: ClassVar[str] = "token"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = -1

    def __init__(self, *, name: str, text: TextCodec | None = None, source: str = "text") -> None:
        self.name, self.text, self.source = name, text, source if text is None else text.name

    @property
    def spec(self) -> TokenTarget:
        return TokenTarget(name=self.name, vocab_size=self._text.tokenizer.vocab_size, of=self.source)

    @property
    def _text(self) -> TextCodec:
        assert self.text is not None, "connect() comes first"
        return self.text

    def encode(self, raw: Any) -> Encoded:
        """``{"values": N, "bytes": 1}``, the bytes of what the tokens hold. Where a text was cut, the token that closes it is not asked for: it does not
        end there."""
        if isinstance(raw, Tokens):
            return {"values": raw.following, self.spec.bytes: torch.tensor([raw.size])}
        if is_missing(raw) or not isinstance(raw, str):
            raise DataError(f"target {self.name!r} is {'empty' if is_missing(raw) else f'no text but {type(raw).__name__}'}: there is no token to tell")
        text = self._text
        ids = text.ids(raw)
        following = [*ids[1:], self.pad]
        held = text.cut_at(raw)
        if held is not None and ids[-1] == text.tokenizer.end_id:
            following[-2] = self.pad
        size = len(raw.encode("utf-8", "replace")) if held is None else held
        return {"values": torch.tensor(following), self.spec.bytes: torch.tensor([size])}

    def state(self) -> dict[str, Any]:
        return {"text": self.source}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "NextTokenCodec":  # noqa: ARG003
        strict(state, name, text=str)
        return cls(name=name, source=state["text"])

    def connect(self, inputs: Mapping[str, Any]) -> None:
        """Find the text that the state names."""
        codec = inputs.get(self.source)
        if not isinstance(codec, TextCodec):
            raise CheckpointError(f"processor.json: target {self.name!r} follows the text {self.source!r}, which is no text among the inputs")
        self.text = codec
