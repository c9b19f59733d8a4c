"""Encoded samples -> columns -> batches. The loader and the predictor share this, so that both pad alike."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoo.data.base import Encoded, InputCodec, TargetCodec
from zoo.data.columns import Column
from zoo.structs import BadSample, Batch, Values

Columns = dict[str, dict[str, Column]]
"""Input or target name -> tensor name -> column."""


def columns_of(codec: InputCodec | TargetCodec, samples: Sequence[Encoded]) -> dict[str, Column]:
    """The samples of one input or target, by tensor name."""
    ragged = codec.ragged is not None
    return {name: Column.of([sample[name] for sample in samples], ragged=ragged, pad=codec.pad) for name in samples[0]}


def fetch_input(columns: Mapping[str, Column], rows: Tensor) -> Values:
    """Rows of one input; a codec with one tensor gives it bare, one with several gives them by name."""
    fetched = {name: column.fetch(rows) for name, column in columns.items()}
    if set(fetched) == {"values"}:
        return Values(fetched["values"].values, fetched["values"].mask)
    return Values({name: entry.values for name, entry in fetched.items()})


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


def filler(template: Encoded, *, ragged: bool, pad: int) -> Encoded:
    """What stands for a sample that could not be read: zeros, of length 1 where lengths vary, so that no row is empty."""
    if not ragged:
        return {name: torch.zeros_like(value) for name, value in template.items()}
    return {name: torch.full((*value.shape[:-1], 1), pad, dtype=value.dtype) for name, value in template.items()}
