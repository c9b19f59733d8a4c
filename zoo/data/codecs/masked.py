"""Tokens that are hidden from a model, which is to tell them (Devlin et al., 2019, https://arxiv.org/abs/1810.04805).

Letters: B texts, N positions, W words.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.data.base import Encoded
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import strict
from zoo.data.codecs.text import TextCodec
from zoo.data.tokenizers.subword import SubwordTokenizer
from zoo.errors import CheckpointError, DataError
from zoo.random import SampleRandom
from zoo.specs import MaskedTarget
from zoo.structs import Values

WORDS = "words"
MASKED, CHANGED = 0.8, 0.9
"""Of the tokens that are asked for, the share that is masked, and that which is masked or changed; the rest stays (section 3.1)."""


class Masking(StrEnum):
    WORDS = "words"  # all tokens of a word, or none
    TOKENS = "tokens"


class MaskedTokenCodec:
    """Which tokens are asked for is drawn anew in every epoch, by sample: the same in any batch, and always the same where a model is measured.

    Args:
        name: of the target.
        text: codec of the input that is masked; None until ``connect``.
        source: that input's name.
        share: of the words, or tokens, that is asked for; one at least of every text.
        masking: words or tokens.
    """

    kind: ClassVar[str] = "masked"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = -1

    def __init__(self, *, name: str, text: TextCodec | None = None, source: str = "text", share: float = 0.15, masking: Masking = Masking.WORDS) -> None:
        if not 0 < share < 1:
            raise ValueError(f"mask_share={share} is no share between 0 and 1; choose e.g. 0.15")
        self.name, self.text, self.source, self.share, self.masking = name, text, source if text is None else text.name, share, masking

    @property
    def tokenizer(self) -> SubwordTokenizer:
        """The text's.

        Raises:
            DataError: where it has no token to mask with.
        """
        assert self.text is not None, "connect() comes first"
        tokenizer = self.text.tokenizer
        if not isinstance(tokenizer, SubwordTokenizer) or tokenizer.mask_id is None:
            raise DataError(f"target {self.name!r}: the tokenizer {tokenizer.kind} has no token to mask with; choose data/tokenizer=wordpiece, which has")
        return tokenizer

    @property
    def spec(self) -> MaskedTarget:
        assert self.text is not None, "connect() comes first"
        return MaskedTarget(name=self.name, vocab_size=self.text.tokenizer.vocab_size, of=self.source)

    def encode(self, raw: Any) -> Encoded:
        """``{"values": N, "words": N}``: all tokens, of which ``draw`` leaves what is asked for, and each one's word by number, -1 for special ones."""
        assert self.text is not None, "connect() comes first"
        if is_missing(raw) or not isinstance(raw, str):
            raise DataError(f"target {self.name!r} is {'empty' if is_missing(raw) else f'no text but {type(raw).__name__}'}: there is no token to tell")
        found = self.tokenizer.encoding(raw, self.text.max_length)
        words = found.word_ids if self.masking is Masking.WORDS else [None if special else place for place, special in enumerate(found.special_tokens_mask)]
        numbers = [-1 if word is None or special else word for word, special in zip(words, found.special_tokens_mask, strict=True)]
        if max(numbers, default=-1) < 0:
            raise DataError(f"target {self.name!r}: the text has no word that could be masked")
        return {"values": torch.tensor(found.ids), WORDS: torch.tensor(numbers)}

    def draw(self, values: Values, targets: Mapping[str, Tensor], random: SampleRandom) -> tuple[Values, dict[str, Tensor]]:
        """Mask a batch.

        Args:
            values: of the text, B N.
            targets: of ``encode``, collated.
            random: of the samples.

        Returns:
            The text with tokens masked and changed, and the targets with only what is asked for.
        """
        assert isinstance(values.values, Tensor)
        mask_id = self.tokenizer.mask_id
        assert mask_id is not None
        ids, words = targets[self.name], targets[WORDS]
        real = words >= 0
        count = int(words.max()) + 1 if words.numel() else 0
        draws = random.uniform("words", max(count, 1))  # B W: a word's number is the same whatever stands beside it
        own = draws.gather(1, words.clamp_min(0)).masked_fill(~real, 2.0)  # B N
        asked = (own < torch.maximum(own.amin(dim=1, keepdim=True).nextafter(own.new_full((), 2.0)), own.new_full((), self.share))) & real
        fate = random.uniform("fates", words.shape[1])
        other = random.integers("others", self.spec.vocab_size, words.shape[1])
        shown = torch.where(fate < MASKED, mask_id, torch.where(fate < CHANGED, other, ids))
        masked = torch.where(asked, shown, values.values)
        rest = {name: tensor for name, tensor in targets.items() if name != WORDS}
        return Values(masked, values.mask, values.present), rest | {self.name: ids.masked_fill(~asked, self.pad)}

    def ask(self, row: Mapping[str, Any]) -> Encoded:
        """For a text with masks in it: which places are asked for."""
        assert self.text is not None, "connect() comes first"
        raw = row[self.source]
        mask_id = self.tokenizer.mask_id
        ids = torch.tensor(self.text.ids(raw)) if isinstance(raw, str) else torch.zeros(0, dtype=torch.int64)
        if not bool(ids.eq(mask_id or 0).any()):
            raise DataError(f"the text has no {self.tokenizer.library.id_to_token(mask_id)} to be told")  # type: ignore[arg-type]
        return {"values": torch.where(ids.eq(mask_id or 0), ids, self.pad)}

    def present(self, answer: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """Identifiers as people read them, and the text with the likeliest of each."""
        assert self.text is not None, "connect() comes first"
        tokenizer = self.tokenizer
        told = [[{"token": tokenizer.decode([entry["id"]]), "probability": entry["probability"]} for entry in place] for place in answer["masked"]]
        best = iter([place[0]["id"] for place in answer["masked"]])
        ids = [next(best) if number == tokenizer.mask_id else number for number in self.text.ids(row[self.source])]
        return {"filled": tokenizer.decode(ids), "masked": told}

    def state(self) -> dict[str, Any]:
        return {"text": self.source, "share": self.share, "masking": str(self.masking)}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "MaskedTokenCodec":  # noqa: ARG003
        strict(state, name, text=str, share=float, masking=str)
        return cls(name=name, source=state["text"], share=state["share"], masking=Masking(state["masking"]))

    def connect(self, inputs: Mapping[str, Any]) -> None:
        """Find the text that the state names."""
        codec = inputs.get(self.source)
        if not isinstance(codec, TextCodec):
            raise CheckpointError(f"processor.json: target {self.name!r} is of the text {self.source!r}, which is no text among the inputs")
        self.text = codec
