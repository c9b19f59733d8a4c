"""Texts that a model writes: continuations by a causal language model, and what a decoder writes of an encoder's features.

Letters: B texts, N positions, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from zoo.data.base import Tokenizer
from zoo.data.codecs.text import TextCodec
from zoo.inference.beams import beam_search
from zoo.inference.choosing import choose
from zoo.inference.sampling import Sampling
from zoo.inference.writers import Writer, writer_of
from zoo.model import Model
from zoo.random import SampleRandom
from zoo.structs import Features


class Ended(StrEnum):
    END = "end"  # the model closed the text
    STOP = "stop"  # one of the texts to stop at
    LENGTH = "length"  # max_tokens, or all that the model can hold


@dataclass(frozen=True)
class Continuation:
    """Identifiers after those of the prompt, without the one that closes the text."""

    prompt: list[int]
    ids: list[int]
    ended: Ended


def prompt_ids(codec: TextCodec, text: str) -> tuple[list[int], bool]:
    """A text's identifiers without what closes it, and whether its beginning had to be left out: half of what the model holds is kept free."""
    ids = codec.tokenizer.prompt(text)
    room = codec.max_length - codec.max_length // 2
    if len(ids) <= codec.max_length - 1:
        return ids, False
    begins = ids[:1] if codec.tokenizer.begin_id is not None else []  # a token that opens every text stays
    return begins + ids[-(room - len(begins)) :], True


@torch.inference_mode()
def continuations(
    model: Model,
    codec: TextCodec,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    *,
    places: Sequence[int],
    device: torch.device,
    cached: bool = True,
) -> list[Continuation]:
    """What follows each prompt. Each is continued as it would be alone.

    Args:
        model: in evaluation mode, on ``device``, of one text.
        codec: of that text.
        prompts: identifiers, each shorter than ``codec.max_length``.
        sampling: how.
        places: numbers that key what is drawn, one a prompt.
        device: of the model.
        cached: whether to keep what was computed, where the model can; changes no answer.
    """
    writer = writer_of(model, name=codec.name, pad=codec.pad, cached=cached)
    return written(writer, codec.tokenizer, prompts, sampling, limit=codec.max_length, places=places, device=device)


@torch.inference_mode()
def translations(
    model: Model,
    features: Features,
    tokenizer: Tokenizer,
    opening: list[int],
    sampling: Sampling,
    *,
    limit: int,
    places: Sequence[int],
    device: torch.device,
    cached: bool = True,
) -> list[Continuation]:
    """What a decoder writes of each row's features.

    Args:
        model: in evaluation mode, on ``device``, whose decoder writes.
        features: of its encoder.
        tokenizer: of what is written.
        opening: what it begins with.
        sampling: how.
        limit: tokens that the decoder holds.
        places: numbers that key what is drawn, one a row.
        device: of the model.
        cached: whether to keep what was computed, where the model can; changes no answer.
    """
    assert model.written is not None, "continuations() is for models without a decoder that writes"
    writer = writer_of(model, name=model.written, pad=tokenizer.pad_id, features=features, cached=cached)
    return written(writer, tokenizer, [opening] * len(places), sampling, limit=limit, places=places, device=device)


def written(
    writer: Writer, tokenizer: Tokenizer, prompts: Sequence[list[int]], sampling: Sampling, *, limit: int, places: Sequence[int], device: torch.device
) -> list[Continuation]:
    """What a writer makes of each prompt, by beams or token by token."""
    if sampling.beams == 1:
        writing = Writing(writer, tokenizer, prompts, sampling, limit=limit, places=places, device=device)
        while writing.advance():
            pass
        return writing.continuations()
    # Texts that have come to different lengths are as far from the limit: each by itself, where that cuts some of them off.
    rooms = {limit - len(prompt) for prompt in prompts}
    if min(rooms) < sampling.max_tokens and len(rooms) > 1:
        return [
            answer
            for place, prompt in zip(places, prompts, strict=True)
            for answer in written(writer, tokenizer, [prompt], sampling, limit=limit, places=[place], device=device)
        ]
    steps = min(sampling.max_tokens, *rooms)
    found = beam_search(writer, prompts, sampling, end=tokenizer.end_id, steps=steps, device=device)
    return [finished(tokenizer, prompt, ids, sampling) for prompt, ids in zip(prompts, found, strict=True)]


def finished(tokenizer: Tokenizer, prompt: list[int], ids: list[int], sampling: Sampling) -> Continuation:
    """A beam's identifiers as an answer."""
    closes = bool(ids) and ids[-1] == tokenizer.end_id
    ids = ids[:-1] if closes else ids
    for length in range(1, len(ids) + 1) if sampling.stop else ():
        if stops(tokenizer, ids[:length], sampling.stop):
            return Continuation(prompt, ids[:length], Ended.STOP)
    return Continuation(prompt, ids, Ended.END if closes else Ended.LENGTH)


class Writing:
    """Texts that are being written, a token of each at a time.

    Args:
        writer: of scores.
        tokenizer: of what is written.
        prompts: identifiers, each shorter than ``limit``.
        sampling: how.
        limit: tokens that the model holds.
        places: numbers that key what is drawn, one a prompt.
        device: of the scores.
    """

    def __init__(
        self, writer: Writer, tokenizer: Tokenizer, prompts: Sequence[list[int]], sampling: Sampling, *, limit: int, places: Sequence[int], device: torch.device
    ) -> None:
        self.writer, self.tokenizer, self.prompts, self.sampling, self.limit = writer, tokenizer, list(prompts), sampling, limit
        starts = [len(prompt) for prompt in prompts]
        self.steps, self.step = min(sampling.max_tokens, limit - min(starts)), 0  # the model holds no more, whatever was asked for
        self.lengths = torch.tensor(starts, device=device)  # B
        self.ids = torch.zeros(len(prompts), self.steps, dtype=torch.int64, device=device)  # B steps
        self.counts = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        self.ended: list[Ended] = [Ended.LENGTH] * len(prompts)
        self.going = torch.arange(len(prompts), device=device)
        self.drawn: Tensor | None = None
        if sampling.temperature:
            self.drawn = SampleRandom(sampling.seed, 0, torch.tensor(list(places), device=device)).uniform("continuation", self.steps)  # B steps
        self.logits = writer.begin(prompts, min(max(starts) + self.steps, limit))
        self.seen: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self.seen = torch.zeros_like(self.logits, dtype=torch.bool)
            for row, prompt in enumerate(prompts):
                self.seen[row, list(prompt)] = True

    def advance(self) -> bool:
        """One token more for each text that goes on; whether any still does."""
        drawn = None if self.drawn is None else self.drawn[self.going, self.step]
        chosen = choose(self.logits, self.sampling, drawn, self.seen)  # of those that go on
        end = self.tokenizer.end_id
        goes = torch.ones_like(chosen, dtype=torch.bool) if end is None else chosen != end
        if not bool(goes.all()):
            for row in self.going[~goes].tolist():
                self.ended[row] = Ended.END
        self.ids[self.going, self.step] = chosen
        self.counts[self.going] += goes
        self.lengths[self.going] += goes
        self.step += 1
        if self.sampling.stop:
            goes &= ~self._stopped(goes)
        goes &= self.lengths[self.going] < self.limit
        if self.step == self.steps or not bool(goes.any()):
            self.going = self.going[:0]
            return False
        if self.seen is not None:
            self.seen[torch.arange(len(chosen), device=chosen.device), chosen] = True
        if not bool(goes.all()):
            rows = goes.nonzero()[:, 0]
            self.writer.select(rows)
            self.going, chosen = self.going[rows], chosen[rows]
            self.seen = None if self.seen is None else self.seen[rows]
        self.logits = self.writer.step(chosen)
        return True

    def _stopped(self, goes: Tensor) -> Tensor:
        """Which of those that go on have come to a text to stop at."""
        found = torch.zeros_like(goes)
        for place, row in enumerate(self.going.tolist()):
            if bool(goes[place]) and stops(self.tokenizer, self.ids[row, : int(self.counts[row])].tolist(), self.sampling.stop):
                found[place], self.ended[row] = True, Ended.STOP
        return found

    def continuations(self) -> list[Continuation]:
        """As far as they are written."""
        rows = zip(self.prompts, self.ids.tolist(), self.counts.tolist(), self.ended, strict=True)
        return [Continuation(prompt, row[:count], ended) for prompt, row, count, ended in rows]


def stops(tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether the last tokens hold one of the texts."""
    reach = max(len(text.encode("utf-8", "replace")) for text in stop) + 1  # a token is a byte or more
    return any(text in tokenizer.decode(ids[-reach:]) for text in stop)


def text_of(tokenizer: Tokenizer, continuation: Continuation, stop: Sequence[str] = ()) -> str:
    """The continuation as it reads behind its prompt; some tokenizers drop a space in front of what they are given alone."""
    before, whole = tokenizer.decode(continuation.prompt), tokenizer.decode([*continuation.prompt, *continuation.ids])
    text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(continuation.ids)
    if continuation.ended is Ended.STOP:
        text = text[: min(place for entry in stop if (place := text.find(entry)) >= 0)] if any(entry in text for entry in stop) else text
    return text


@torch.inference_mode()
def streamed(writing: Writing, prompt: list[int]) -> Iterator[str]:
    """The text of a single continuation as it is written, in pieces that no later token changes."""
    shown, held = "", max((len(text) for text in writing.sampling.stop), default=0)
    more = True
    while more:
        more = writing.advance()
        (continuation,) = writing.continuations()
        text = text_of(writing.tokenizer, Continuation(prompt, continuation.ids, continuation.ended), writing.sampling.stop)
        ready = text if not more else text[: len(text) - held].rstrip("\ufffd")  # half a letter, or the beginning of a text to stop at
        if more and not ready.startswith(shown):
            continue
        if len(ready) > len(shown):
            yield ready[len(shown) :]
            shown = ready
