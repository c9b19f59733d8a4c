"""Synthetic batches of any spec, for checks before data is read and for tests. They mean nothing and have the right form.

Letters: B rows, C channels or classes, H W pixels, N positions, M mel bands, T frames, K numbers, S seen items.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zoo.specs import (
    AnswerTarget,
    ClassTarget,
    ContextTarget,
    DataSpec,
    HistoryInput,
    ImageInput,
    InputSpec,
    ItemTarget,
    Labelling,
    MaskedTarget,
    NumberTarget,
    PairInput,
    PairTarget,
    SpectrogramInput,
    TableInput,
    TagTarget,
    TargetSpec,
    TaughtTarget,
    TokenInput,
    TokenTarget,
)
from zoo.structs import Batch, Values


def fake_batch(spec: DataSpec, size: int, device: str = "cpu", seed: int = 0, lengths: Sequence[int] | None = None) -> Batch:
    """A batch that fits ``spec``; where inputs are optional, some rows lack them.

    Args:
        spec: what a model of the data is built for.
        size: rows B.
        device: "cpu", or "meta" for shapes alone.
        seed: of the values; the same seed gives the same batch, and its shapes on "meta".
        lengths: real positions (or frames) of each row; drawn from 1 to the spec's maximum (at most 64) where none are given.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("cpu"):  # a default device of meta would take the generator's place
        if lengths is None:
            limit = max(1, min([64, *filter(None, (longest(entry) for entry in spec.inputs))]))
            lengths = torch.randint(1, limit + 1, (size,), generator=generator).tolist()
        assert len(lengths) == size, f"{len(lengths)} lengths for {size} rows"
        inputs = {entry.name: fake_input(entry, size, list(lengths), generator) for entry in spec.inputs}
        inputs |= fake_absence(spec.inputs, inputs, size)
        targets: dict[str, Tensor] = {}
        for target in spec.targets:
            targets |= fake_target(target, size, list(lengths), generator)
        batch = Batch(inputs=inputs, targets=targets, ids=torch.arange(size), valid=torch.ones(size, dtype=torch.bool))
    return batch.to(device)


def longest(entry: InputSpec) -> int | None:
    """The most positions that an input may have, None where its shape is fixed."""
    match entry:
        case TokenInput():
            return entry.max_length
        case SpectrogramInput():
            return entry.max_frames
    return None


def fake_input(entry: InputSpec, size: int, lengths: list[int], generator: torch.Generator) -> Values:
    match entry:
        case ImageInput():
            return Values(torch.randn(size, entry.channels, entry.height, entry.width, generator=generator))
        case TokenInput():
            mask = length_mask(lengths)
            lowest = 1 if isinstance(entry, HistoryInput) else 0
            ids = torch.randint(lowest, entry.vocab_size, mask.shape, generator=generator)
            ids = torch.where(ids == entry.pad_id, (ids + 1) % entry.vocab_size, ids)
            if isinstance(entry, PairInput) and entry.separator is not None:  # behind the first third, where a row has room for two texts
                ids[torch.arange(size), torch.tensor(lengths) // 3] = entry.separator
            return Values(ids.masked_fill(~mask, entry.pad_id), mask)
        case SpectrogramInput():
            mask = length_mask(lengths)
            return Values(torch.randn(size, entry.n_mels, mask.shape[1], generator=generator) * mask[:, None], mask)
        case TableInput():
            columns = [torch.randint(0, count, (size,), generator=generator) for count in entry.categories]
            categories = torch.stack(columns, dim=1) if columns else torch.zeros(size, 0, dtype=torch.int64)
            return Values({"numbers": torch.randn(size, entry.numbers, generator=generator), "categories": categories})
    raise AssertionError(f"no fake values for an input of kind {entry.kind!r}")


def fake_absence(entries: Sequence[InputSpec], inputs: dict[str, Values], size: int) -> dict[str, Values]:
    """Optional inputs as a loader gives them where every second row lacks one; no row lacks all."""
    places = torch.arange(size)
    optional = [entry.name for entry in entries if entry.optional]
    others = len(entries) > len(optional)
    found = {}
    for number, name in enumerate(optional):
        lacks = (places % 2 == 1) if others else (places % (2 * len(optional)) == 2 * number + 1)
        found[name] = replace(inputs[name], present=~lacks).blanked()
    return {} if len(entries) == 1 else found


def fake_target(target: TargetSpec, size: int, lengths: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    match target:
        case TaughtTarget():
            labels = torch.randint(0, target.num_classes, (size,), generator=generator)
            return {target.name: labels, target.scores: torch.randn(size, target.num_classes, generator=generator)}
        case ClassTarget(labelling=Labelling.SINGLE):
            return {target.name: torch.randint(0, target.num_classes, (size,), generator=generator)}
        case ClassTarget():
            return {target.name: torch.randint(0, 2, (size, target.num_classes), generator=generator).float()}
        case NumberTarget():
            values = torch.randn(size, len(target.columns), generator=generator)
            return {target.name: values * torch.tensor(target.std) + torch.tensor(target.mean)}
        case ItemTarget():
            mask = length_mask(lengths)
            items = torch.randint(1, target.num_items + 1, mask.shape, generator=generator)
            seen = torch.randint(1, target.num_items + 1, (size, max(lengths)), generator=generator)
            return {target.name: items * mask, target.seen: seen * mask}
        case TokenTarget():
            mask = length_mask(lengths)
            tokens = torch.randint(0, target.vocab_size, mask.shape, generator=generator)
            last = torch.tensor(lengths)[:, None] - 1
            asked = mask & (torch.arange(max(lengths)) != last)
            return {target.name: tokens.masked_fill(~asked, target.ignore_index), target.bytes: last * 3}
        case TagTarget():
            mask = length_mask(lengths)
            labels = torch.randint(0, len(target.labels), mask.shape, generator=generator)
            return {target.name: labels.masked_fill(~mask, target.ignore_index)}
        case AnswerTarget():
            mask = length_mask(lengths)
            last = torch.tensor(lengths) - 1
            first = last // 2
            span = torch.stack([first, torch.minimum(first + torch.arange(size) % 3, last)], dim=1)
            allowed = mask & ((torch.arange(max(lengths)) >= first[:, None]) | (torch.arange(max(lengths)) == 0))
            return {target.name: span, target.places: torch.where(allowed, 1, target.ignore_index)}
        case MaskedTarget():
            mask = length_mask(lengths)
            tokens = torch.randint(0, target.vocab_size, mask.shape, generator=generator)
            asked = mask & (torch.arange(max(lengths)) % 3 == 0)
            return {target.name: tokens.masked_fill(~asked, target.ignore_index)}
        case ContextTarget():
            mask = length_mask(lengths)
            words = torch.randint(0, target.vocab_size, mask.shape, generator=generator)
            return {target.name: words.masked_fill(~mask, target.ignore_index)}
        case PairTarget():
            places = torch.arange(size)
            return {target.name: places - (places % 3 == 1).long()}  # every third row is of the same thing as the one before it
    raise AssertionError(f"no fake values for a target of kind {target.kind!r}")


def length_mask(lengths: list[int]) -> Tensor:
    """B N, True at the first ``lengths[b]`` positions."""
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
