"""Two texts as one sequence, with the tokenizer's separator between them (BERT, Devlin et al., 2019, https://arxiv.org/abs/1810.04805).

Letters: N positions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zoo.data.base import Encoded, Tokenizer
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import strict
from zoo.data.codecs.text import TextCodec
from zoo.data.tokenizers.subword import SubwordTokenizer, sound
from zoo.errors import CheckpointError, DataError, RegistryError
from zoo.registry import TOKENIZERS
from zoo.specs import PairInput

if TYPE_CHECKING:
    from tokenizers import Encoding


class TextPairCodec(TextCodec):
    """Tokens of a first and a second text. Where both do not fit, the longer one is cut, until they are of one length, then both.

    Args:
        name: of the input.
        tokenizer: trained by ``fit``, or loaded; one that puts a token between two texts.
        max_length: tokens of both at most, special ones included.
        first: column of the first text; a raw value is a mapping of the two columns to texts.
        second: column of the second.
    """

    kind: ClassVar[str] = "text_pair"

    def __init__(self, *, name: str, tokenizer: Tokenizer, max_length: int, first: str, second: str) -> None:
        if first == second:
            raise ValueError(f"text={first} and second={second} are one column; two are needed")
        if not isinstance(tokenizer, SubwordTokenizer):
            raise ValueError(f"tokenizer={tokenizer.kind} knows no two texts; choose data/tokenizer=wordpiece or bpe")
        super().__init__(name=name, tokenizer=tokenizer, max_length=max_length)
        self.first, self.second = first, second
        self._known: tuple[tuple[str, str], Encoding] | None = None

    @property
    def columns(self) -> tuple[str, str]:
        return self.first, self.second

    @property
    def _tokenizer(self) -> SubwordTokenizer:
        assert isinstance(self.tokenizer, SubwordTokenizer), "the constructor refuses others"
        return self.tokenizer

    def fit(self, texts: Sequence[str]) -> None:
        super().fit(texts)
        self.check()

    def check(self) -> None:
        """Raises:
        DataError: where the tokenizer, trained by now, puts nothing between two texts, or leaves no room for them.
        """
        if self._tokenizer.separator_id is None:
            raise DataError(f"the tokenizer of {self.name!r} puts nothing between two texts; choose tokenizer=wordpiece or bpe, trained here, or BERT's")
        if self.room < 2:
            raise DataError(f"max_length={self.max_length} leaves no room for two texts between the special tokens of {self.name!r}")

    @property
    def room(self) -> int:
        """Tokens of both texts beside the special ones."""
        return self.max_length - self._tokenizer.library.num_special_tokens_to_add(True)

    @property
    def spec(self) -> PairInput:
        return PairInput(
            name=self.name,
            vocab_size=self.tokenizer.vocab_size,
            max_length=self.max_length,
            pad_id=self.tokenizer.pad_id,
            separator=self._tokenizer.separator_id,
            columns=self.columns,
        )

    def texts(self, raw: Any) -> tuple[str, str]:
        """The two texts of a raw value.

        Raises:
            DataError: where one is missing, or something else is given.
        """
        if not isinstance(raw, Mapping):
            raise DataError(f"{self.name!r} is two texts, {self.first!r} and {self.second!r}, not {type(raw).__name__}")
        for column in self.columns:
            if not isinstance(raw.get(column), str) or not raw[column]:
                raise DataError(f"column {column!r} is {'empty' if is_missing(raw.get(column)) else f'no text but {type(raw[column]).__name__}'}")
        return sound(raw[self.first]), sound(raw[self.second])

    def encode(self, raw: Any) -> Encoded:
        return {"values": torch.tensor(self.encoding(raw).ids)}

    def encoding(self, raw: Any) -> "Encoding":
        """The library's own account of both: ``ids``, and for each token ``sequence_ids`` (0, 1, or None for special ones) and ``offsets`` in its text.

        The last pair's is kept, for a target that is made of the same.
        """
        texts = self.texts(raw)
        if self._known is None or self._known[0] != texts:
            library = self._tokenizer.library
            first, second = (library.encode(text, add_special_tokens=False) for text in texts)
            one, two = fitted(len(first.ids), len(second.ids), self.room)
            first.truncate(one)
            second.truncate(two)
            self._known = texts, library.post_process(first, second)
        return self._known[1]

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.kind, "max_length": self.max_length, "first": self.first, "second": self.second}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "TextPairCodec":
        strict(state, name, tokenizer=str, max_length=int, first=str, second=str)
        try:
            kind = TOKENIZERS.load(state["tokenizer"])
        except RegistryError as error:
            raise CheckpointError(f"processor.json: {name}.tokenizer: {error}") from error
        tokenizer = kind.load(folder / name)  # type: ignore[attr-defined]
        return cls(name=name, tokenizer=tokenizer, max_length=state["max_length"], first=state["first"], second=state["second"])


def fitted(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each of two texts are kept, the longer one cut first."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= room - half:
        return room - second, second
    return half, room - half
