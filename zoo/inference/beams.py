"""Beam search: several continuations of each text side by side, of which the likeliest for its length is kept.

Letters: B texts, K beams of each, V vocabulary, N positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.inference.choosing import shaped
from zoo.inference.sampling import Sampling
from zoo.inference.writers import Writer


@torch.inference_mode()
def beam_search(writer: Writer, prompts: Sequence[Sequence[int]], sampling: Sampling, *, end: int | None, steps: int, device: torch.device) -> list[list[int]]:
    """Identifiers after each prompt, the closing one included where there is one.

    A beam that closes among the best K counts with its log probability over its length to the power of ``length_penalty``; a text is done once K have closed
    and none that goes on is better than the worst of them.

    Args:
        writer: of scores.
        prompts: identifiers.
        sampling: how.
        end: the token that closes a text; None where none does.
        steps: tokens at most.
        device: of the scores.
    """
    count, beams = len(prompts), sampling.beams
    logits = writer.begin(prompts, max(map(len, prompts)) + steps)
    size = logits.shape[-1]
    writer.select(torch.arange(count, device=device).repeat_interleave(beams))
    logits = logits.repeat_interleave(beams, dim=0)  # (B K) V
    there = torch.zeros(count * beams, size, dtype=torch.bool, device=device)
    if sampling.repetition_penalty != 1:
        for row, prompt in enumerate(prompts):
            there[row * beams : (row + 1) * beams, list(prompt)] = True
    scores = torch.full((count, beams), -torch.inf, device=device)
    scores[:, 0] = 0  # all beams are alike at first
    running = torch.zeros(count, beams, 0, dtype=torch.int64, device=device)  # B K N
    closed = torch.zeros(count, beams, steps, dtype=torch.int64, device=device)
    lengths = torch.zeros(count, beams, dtype=torch.int64, device=device)
    worth = torch.full((count, beams), -torch.inf, device=device)
    done = torch.zeros(count, dtype=torch.bool, device=device)
    first = torch.arange(count, device=device)[:, None]
    for step in range(1, steps + 1):
        told = shaped(logits.log_softmax(dim=-1), sampling, there if sampling.repetition_penalty != 1 else None)
        found = (scores[..., None] + told.view(count, beams, size)).flatten(1).topk(min(2 * beams, beams * size), dim=1)
        origin, token = found.indices // size, found.indices % size  # B 2K
        ends = token == end if end is not None else torch.zeros_like(token, dtype=torch.bool)
        texts = torch.cat([running[first, origin], token[..., None]], dim=-1)  # B 2K N
        closes = ends | torch.full_like(ends, step == steps)
        fresh = (found.values / step**sampling.length_penalty).masked_fill(~closes, -torch.inf)
        fresh[:, beams:] = -torch.inf  # only what is among the best K has closed
        fresh = fresh.masked_fill(done[:, None], -torch.inf)
        kept = torch.cat([worth, fresh], dim=1).topk(beams, dim=1)
        filled = torch.nn.functional.pad(texts, (0, steps - step))
        closed = torch.cat([closed, filled], dim=1)[first, kept.indices]
        lengths = torch.cat([lengths, torch.full_like(token, step)], dim=1)[first, kept.indices]
        worth = kept.values
        going = found.values.masked_fill(ends, -torch.inf).topk(beams, dim=1)
        scores, running = going.values, texts[first, going.indices]
        done |= worth.isfinite().all(dim=1) & (scores[:, 0] / step**sampling.length_penalty <= worth.amin(dim=1))
        if step == steps or bool(done.all()):
            break
        rows = (first * beams + origin.gather(1, going.indices)).flatten()
        writer.select(rows)
        chosen = token.gather(1, going.indices).flatten()
        there = there[rows]
        there[torch.arange(len(rows), device=device), chosen] = True
        logits = writer.step(chosen)
    best = worth.argmax(dim=1)
    return [text[:length].tolist() for text, length in zip(pick(closed, best), pick(lengths, best).tolist(), strict=True)]


def pick(values: Tensor, best: Tensor) -> Tensor:
    """The best beam's of each text."""
    return values[torch.arange(len(values), device=values.device), best]
