"""A model as a source of scores for the next token of each of several texts, whatever it is made of.

Letters: B texts, N positions, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.decoders.none import NoDecoder
from zoo.errors import ZooError
from zoo.heads.next_token import last_logits
from zoo.layers.cache import Cache
from zoo.layers.output import VocabularyScores
from zoo.model import Model
from zoo.structs import Features, Values


class Writer(Protocol):
    """Scores of what follows each text, B V in fp32."""

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> Tensor:
        """Of what follows the prompts, which texts of up to ``capacity`` tokens are to become of."""

    def step(self, tokens: Tensor) -> Tensor:
        """Of what follows once each text has this token more, B."""

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, in this order; one may be there several times."""


def writer_of(model: Model, *, name: str, pad: int, features: Features | None = None, cached: bool = True) -> Writer:
    """The fastest way that the model's parts offer.

    Args:
        model: in evaluation mode.
        name: of the text's input.
        pad: identifier that fills shorter texts.
        features: of the encoder, where a decoder writes.
        cached: whether to keep what was computed, where the model can.

    Raises:
        ZooError: where the head has no scores of tokens.
    """
    if not hasattr(model.head, "scores"):
        raise ZooError(f"head {type(model.head).__name__} has no scores of tokens, so that nothing can be written with it")
    part: Any = model.encoder if model.written is None else model.decoder
    direct = model.written is not None or isinstance(model.decoder, NoDecoder)
    if cached and direct and hasattr(part, "extend"):
        return CachedWriter(model, pad, features)
    return PlainWriter(model, name, pad, features)


class CachedWriter:
    """What was computed of a text is kept; a step computes one position.

    Args:
        model: whose encoder, or decoder where that writes, has ``begin`` and ``extend``.
        pad: identifier that fills shorter texts.
        features: of the encoder, where a decoder writes.
    """

    def __init__(self, model: Model, pad: int, features: Features | None) -> None:
        self.model, self.pad, self.features = model, pad, features
        self.part: Any = model.encoder if model.written is None else model.decoder
        self.head: Any = model.head
        self.cache: Cache

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> Tensor:
        tokens, counts = padded(prompts, self.pad, next(self.model.parameters()).device)
        even = all(len(prompt) == tokens.shape[1] for prompt in prompts)
        self.cache = self.part.begin(len(prompts), capacity) if self.features is None else self.part.begin(self.features, capacity)
        hidden = self.part.extend(tokens, self.cache, None if even else counts)
        return self.head.scores(hidden[torch.arange(len(prompts), device=tokens.device), counts - 1])  # type: ignore[no-any-return]

    def step(self, tokens: Tensor) -> Tensor:
        return self.head.scores(self.part.extend(tokens[:, None], self.cache)[:, 0])  # type: ignore[no-any-return]

    def select(self, rows: Tensor) -> None:
        self.cache.select(rows)


class PlainWriter:
    """Every step computes the whole text: for models that keep nothing.

    Args:
        model: any that writes.
        name: of the text's input.
        pad: identifier that fills shorter texts.
        features: of the encoder, where a decoder writes.
    """

    def __init__(self, model: Model, name: str, pad: int, features: Features | None) -> None:
        self.model, self.name, self.pad, self.features = model, name, pad, features

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> Tensor:
        device = next(self.model.parameters()).device
        tokens, self.lengths = padded(prompts, self.pad, device)
        self.tokens = torch.full((len(prompts), max(capacity, tokens.shape[1])), self.pad, device=device)
        self.tokens[:, : tokens.shape[1]] = tokens
        return self._scores()

    def step(self, tokens: Tensor) -> Tensor:
        self.tokens[torch.arange(len(tokens), device=tokens.device), self.lengths] = tokens
        self.lengths += 1
        return self._scores()

    def select(self, rows: Tensor) -> None:
        self.tokens, self.lengths = self.tokens.index_select(0, rows), self.lengths.index_select(0, rows)
        if self.features is not None:
            tokens, mask = self.features.tokens, self.features.mask
            assert tokens is not None, "the decoder takes a sequence"
            self.features = Features(tokens=tokens.index_select(0, rows), mask=None if mask is None else mask.index_select(0, rows))

    def _scores(self) -> Tensor:
        rows = self.tokens[:, : int(self.lengths.max())]
        values = Values(rows, torch.arange(rows.shape[1], device=rows.device) < self.lengths[:, None])
        if self.features is None:
            return last_logits(self.model({self.name: values})).float()
        written = self.model.decode(self.features, {self.name: values})
        return last_logits(self.model.head(written)).float()


def padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """B N, filled at the end, and the lengths B."""
    longest = max(map(len, prompts))
    rows = [[*prompt, *[pad] * (longest - len(prompt))] for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor([len(prompt) for prompt in prompts], device=device)


def lay_out(model: Model) -> None:
    """Store the matrices of a model that writes as a processor's memory reads them fastest, in place: same numbers, same names, same room.

    A product with the few rows of a step costs what reading the matrix does. Where it has as many outputs as inputs or more, the library reads it column
    by column up to 2.3 times as fast as row by row (fp32, 1 and 2 rows, 128 to 50,257 outputs, measured by tools/bench/text.py); with fewer outputs it is
    the other way.
    """
    tables = [module.source[0] if module.tied and module.source else module for module in model.modules() if isinstance(module, VocabularyScores)]
    for module in [*(module for module in model.modules() if type(module) is torch.nn.Linear), *tables]:
        weight: Any = module.weight
        fits = weight.dim() == 2 and weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.shape[0] >= weight.shape[1]
        if fits and weight.is_contiguous():
            weight.data = weight.data.t().contiguous().t()
