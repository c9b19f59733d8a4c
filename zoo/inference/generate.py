"""Continuations of texts by a causal language model.

Letters: B texts, N positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from zoo.data.codecs.text import TextCodec
from zoo.errors import ZooError
from zoo.heads.next_token import last_logits
from zoo.model import Model
from zoo.random import SampleRandom
from zoo.structs import Values


class Ended(StrEnum):
    END = "end"  # the model closed the text
    LENGTH = "length"  # max_tokens, or all that the model can hold


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        max_tokens: of a continuation.
        temperature: that scores are divided by before one is drawn; 0 takes the likeliest.
        seed: of what is drawn, for each text by its place.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ZooError(f"max_tokens={self.max_tokens} leaves nothing to write; choose 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise ZooError(f"temperature={self.temperature} is not 0 (the likeliest token each time) or more; choose e.g. 0.7")


@dataclass(frozen=True)
class Continuation:
    """Identifiers after those of the prompt."""

    prompt: list[int]
    ids: list[int]
    ended: Ended


def prompt_ids(codec: TextCodec, text: str) -> tuple[list[int], bool]:
    """A text's identifiers without what closes it, and whether its beginning had to be left out: half of what the model holds is kept free."""
    ids = codec.tokenizer.prompt(text)
    room = codec.max_length - codec.max_length // 2
    if len(ids) <= codec.max_length - 1:
        return ids, False
    begins = ids[:1] if codec.tokenizer.prompt("a")[0] == ids[0] else []  # a token that opens every text stays
    return begins + ids[-(room - len(begins)) :], True


@torch.inference_mode()
def continuations(
    model: Model, codec: TextCodec, prompts: Sequence[list[int]], sampling: Sampling, *, places: Sequence[int], device: torch.device
) -> list[Continuation]:
    """What follows each prompt. Each is continued as it would be alone.

    Args:
        model: in evaluation mode, on ``device``, of one text.
        codec: of that text.
        prompts: identifiers, each shorter than ``codec.max_length``.
        sampling: how.
        places: numbers that key what is drawn, one a prompt.
        device: of the model.
    """
    end, limit = codec.tokenizer.end_id, codec.max_length
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)
    lengths = starts.clone()  # B
    tokens = torch.full((len(prompts), min(int(starts.max()) + sampling.max_tokens, limit)), codec.pad, device=device)  # B N
    for place, prompt in enumerate(prompts):
        tokens[place, : len(prompt)] = torch.tensor(prompt, device=device)
    steps = min(sampling.max_tokens, limit - int(starts.min()))  # the model holds no more, whatever was asked for
    drawn = SampleRandom(sampling.seed, 0, torch.tensor(places, device=device)).uniform("continuation", steps)  # B steps
    closed = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    going = torch.arange(len(prompts), device=device)
    for step in range(steps):
        real = lengths[going]
        rows = tokens[going, : int(real.max())]
        values = Values(rows, torch.arange(rows.shape[1], device=device) < real[:, None])
        chosen = choose(last_logits(model({codec.name: values})).float(), sampling.temperature, drawn[going, step])
        closing = chosen == end if end is not None else torch.zeros_like(chosen, dtype=torch.bool)
        closed[going[closing]] = True
        kept = going[~closing]
        tokens[kept, lengths[kept]] = chosen[~closing]
        lengths[kept] += 1
        going = kept[lengths[kept] < limit]
        if not len(going):
            break
    found = zip(prompts, tokens.tolist(), starts.tolist(), lengths.tolist(), closed.tolist(), strict=True)
    return [Continuation(prompt, row[start:length], Ended.END if done else Ended.LENGTH) for prompt, row, start, length, done in found]


def choose(logits: Tensor, temperature: float, drawn: Tensor) -> Tensor:
    """B: the likeliest token, or at ``drawn`` (B, 0 .. 1) of the distribution's cumulative sum."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    shares = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)  # B V
    return torch.searchsorted(shares, (drawn.double() * shares[:, -1])[:, None], right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)


def text_of(codec: TextCodec, continuation: Continuation) -> str:
    """The continuation as it reads behind its prompt; some tokenizers drop a space in front of what they are given alone."""
    before, whole = codec.tokenizer.decode(continuation.prompt), codec.tokenizer.decode([*continuation.prompt, *continuation.ids])
    return whole[len(before) :] if whole.startswith(before) else codec.tokenizer.decode(continuation.ids)
