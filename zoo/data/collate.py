"""Encoded samples -> columns -> batches. The loader and the predictor share this, so that both pad alike."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.data.base import Encoded, InputCodec, TargetCodec
from zoo.data.columns import Column
from zoo.errors import DataError
from zoo.specs import ImageInput, InputSpec, SpectrogramInput, TableInput, TokenInput
from zoo.structs import BadSample, Batch, Values

Columns = dict[str, dict[str, Column]]
"""Input or target name -> tensor name -> column."""

PRESENT = "present"
"""The column beside an optional input's own that says which samples have it."""

Sample = dict[str, Encoded | None]
"""One sample by input and target; None for an optional input that it lacks."""


def encode_sample(raw: Mapping[str, Any], inputs: Mapping[str, InputCodec], targets: Mapping[str, TargetCodec], optional: Collection[str]) -> Sample:
    """A raw sample's inputs and targets.

    Raises:
        DataError: for what cannot be decoded, an input that is missing and not optional, or a sample without any input.
    """
    lacking = [name for name in inputs if raw.get(name) is None]
    if needed := [name for name in lacking if name not in optional]:
        raise DataError(f"the sample has no {', '.join(needed)}")
    if inputs and len(lacking) == len(inputs):
        raise DataError(f"the sample has none of its inputs, {', '.join(inputs)}: there is nothing to go by")
    encoded: Sample = {name: None if name in lacking else codec.encode(raw[name]) for name, codec in inputs.items()}
    return encoded | {name: codec.encode(raw[name]) for name, codec in targets.items()}


def columns_of(codec: InputCodec | TargetCodec, samples: Sequence[Encoded | None]) -> dict[str, Column]:
    """The samples of one input or target, by tensor name."""
    here = [sample is not None for sample in samples]
    blank: Encoded = {} if all(here) else blank_sample(codec.spec)  # type: ignore[arg-type]
    found = [blank if sample is None else sample for sample in samples]
    columns = {name: Column.of([sample[name] for sample in found], ragged=codec.ragged is not None, pad=codec.pad) for name in found[0]}
    return columns if all(here) else columns | {PRESENT: Column(torch.tensor(here))}


def blank_sample(spec: InputSpec) -> Encoded:
    """What a codec would give for nothing at all: zeros, of length 1 where lengths vary, so that no row is empty."""
    match spec:
        case ImageInput():
            return {"values": torch.zeros(spec.channels, spec.height, spec.width, dtype=torch.uint8)}
        case TokenInput():
            return {"values": torch.full((1,), spec.pad_id)}
        case SpectrogramInput():
            return {"values": torch.zeros(spec.n_mels, 1)}
        case TableInput():
            return {"numbers": torch.zeros(spec.numbers), "categories": torch.zeros(len(spec.categories), dtype=torch.int64)}
    raise AssertionError(f"no blank sample of kind {spec.kind!r}")


def fetch_input(columns: Mapping[str, Column], rows: Tensor) -> Values:
    """Rows of one input; a codec with one tensor gives it bare, one with several gives them by name."""
    fetched = {name: column.fetch(rows) for name, column in columns.items() if name != PRESENT}
    present = columns[PRESENT].fetch(rows).values if PRESENT in columns else None
    if present is not None and bool(present.all()):
        present = None
    if set(fetched) == {"values"}:
        return Values(fetched["values"].values, fetched["values"].mask, present)
    return Values({name: entry.values for name, entry in fetched.items()}, present=present)


def finished(codec: InputCodec, values: Values, present: Tensor | None) -> Values:
    """What an encoder is given: finished by the codec; absent rows stay known and blank, whatever transforms made of them."""
    return replace(codec.finish(values), present=present).blanked()


def fetch_target(name: str, columns: Mapping[str, Column], rows: Tensor) -> dict[str, Tensor]:
    """Rows of one target: its own tensor under its name, others (``seen``) under theirs."""
    return {name if key == "values" else key: column.fetch(rows).values for key, column in columns.items()}


def make_batch(inputs: Columns, targets: Columns, rows: Tensor, *, ids: Tensor, valid: Tensor, bad: tuple[BadSample, ...] = ()) -> Batch:
    """Rows of columns as a batch; inputs are still to be finished by their codecs."""
    return Batch(
        inputs={name: fetch_input(columns, rows) for name, columns in inputs.items()},
        targets={key: value for name, columns in targets.items() for key, value in fetch_target(name, columns, rows).items()},
        ids=ids,
        valid=valid,
        bad=bad,
    )


def fillers(template: Sample, codecs: Mapping[str, InputCodec | TargetCodec], optional: Collection[str]) -> Sample:
    """What stands for a sample that could not be read, by the example of one that could; it lacks what is optional."""
    found: Sample = {}
    for name, value in template.items():
        if value is None or name in optional:
            found[name] = None
        else:
            found[name] = filler(value, ragged=codecs[name].ragged is not None, pad=codecs[name].pad)
    return found


def filler(template: Encoded, *, ragged: bool, pad: int) -> Encoded:
    """What stands for a sample that could not be read: zeros, of length 1 where lengths vary, so that no row is empty."""
    if not ragged:
        return {name: torch.zeros_like(value) for name, value in template.items()}
    return {name: torch.full((*value.shape[:-1], 1), pad, dtype=value.dtype) for name, value in template.items()}
