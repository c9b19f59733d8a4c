"""Encoded samples of one split, in memory or read as they are asked for; both give the same batches to the bit.

Letters: S samples, B rows of a batch.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.data.base import InputCodec, MeasuredSplit, OpenData, Split, TargetCodec
from zoo.data.collate import Columns, Sample, columns_of, encode_sample, fillers, make_batch
from zoo.data.columns import Column
from zoo.errors import DataError
from zoo.settings import Cache
from zoo.structs import BadSample, Batch

AUTO_BYTES = 2 << 30
"""What ``cache=auto`` keeps in memory at most."""

PROBES = 16


@runtime_checkable
class BulkSplit(Protocol):
    """A split that has an input or target of all its samples as one tensor, for codecs with ``encode_all``."""

    def bulk(self, name: str) -> Tensor | None:
        """S ..., or None where samples have to be read one by one."""


class Encoder:
    """Reads and encodes samples; what fails becomes a filler row with its reason."""

    def __init__(self, data: OpenData, split: Split) -> None:
        self.split, self.inputs, self.targets, self.optional = split, data.inputs, data.targets, frozenset(data.optional)
        self._templates: Sample | None = None

    @property
    def codecs(self) -> Mapping[str, InputCodec | TargetCodec]:
        return {**self.inputs, **self.targets}

    def encode(self, index: int) -> Sample | BadSample:
        try:
            return encode_sample(self.split.read(index), self.inputs, self.targets, self.optional)
        except DataError as error:
            return BadSample(self.split.describe(index), str(error))

    def encode_rows(self, rows: Sequence[int], threads: int = 1) -> tuple[Columns, Columns, dict[int, BadSample]]:
        """Columns of inputs and targets, and the bad samples by their place in ``rows``."""
        if threads > 1 and len(rows) > 4 * threads:
            with ThreadPoolExecutor(threads) as pool:
                encoded = list(pool.map(self.encode, rows))
        else:
            encoded = [self.encode(row) for row in rows]
        bad = {place: sample for place, sample in enumerate(encoded) if isinstance(sample, BadSample)}
        samples = [sample for sample in encoded if not isinstance(sample, BadSample)]
        if bad:
            good = samples[0] if samples else None
            fill = fillers(self._template(good), self.codecs, self.optional)
            samples = [fill if isinstance(sample, BadSample) else sample for sample in encoded]
        columns = {name: columns_of(codec, [sample[name] for sample in samples]) for name, codec in self.codecs.items()}
        return {name: columns[name] for name in self.inputs}, {name: columns[name] for name in self.targets}, bad

    def _template(self, good: Sample | None) -> Sample:
        """Any readable sample: a filler has its shapes and types."""
        if good is not None:
            self._templates = good
        elif self._templates is None:
            tried = (self.encode(index) for index in range(len(self.split)))
            self._templates = next((sample for sample in tried if not isinstance(sample, BadSample)), None)
        if self._templates is None:
            first = self.encode(0)
            raise DataError(f"none of the {len(self.split)} samples can be read; the first, {first[0]}: {first[1]}")  # type: ignore[index]
        return self._templates


class Store(Protocol):
    """Samples by number, as unfinished batches."""

    def __len__(self) -> int: ...

    def fetch(self, rows: Tensor) -> Batch: ...

    def lengths(self) -> dict[str, Tensor] | None:
        """S of each ragged input; None where they are not known without reading everything."""


class MemoryStore:
    """All samples encoded, as columns."""

    def __init__(self, encoder: Encoder, threads: int) -> None:
        split, size = encoder.split, len(encoder.split)
        bulk = {name: column for name, codec in encoder.codecs.items() if (column := bulk_column(split, name, codec)) is not None}
        if len(bulk) == len(encoder.codecs):
            columns: dict[str, dict[str, Column]] = {name: {"values": column} for name, column in bulk.items()}
            self.inputs, self.targets = {name: columns[name] for name in encoder.inputs}, {name: columns[name] for name in encoder.targets}
            self.bad: dict[int, BadSample] = {}
        else:
            self.inputs, self.targets, self.bad = encoder.encode_rows(range(size), threads)
        self._size = size
        self._valid = torch.ones(size, dtype=torch.bool)
        self._valid[list(self.bad)] = False

    def __len__(self) -> int:
        return self._size

    def fetch(self, rows: Tensor) -> Batch:
        bad = tuple(self.bad[row] for row in rows.tolist() if row in self.bad) if self.bad else ()
        return make_batch(self.inputs, self.targets, rows, ids=rows, valid=self._valid[rows], bad=bad)

    def lengths(self) -> dict[str, Tensor] | None:
        return {name: lengths for name, columns in self.inputs.items() for column in columns.values() if (lengths := column.lengths()) is not None}


class ReadingStore:
    """Samples read and encoded when a batch needs them."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.encoder.split)

    def fetch(self, rows: Tensor) -> Batch:
        inputs, targets, bad = self.encoder.encode_rows(rows.tolist())
        valid = torch.ones(len(rows), dtype=torch.bool)
        valid[list(bad)] = False
        return make_batch(inputs, targets, torch.arange(len(rows)), ids=rows, valid=valid, bad=tuple(bad.values()))

    def lengths(self) -> dict[str, Tensor] | None:
        return self.encoder.split.lengths() if isinstance(self.encoder.split, MeasuredSplit) else None


def open_store(data: OpenData, split: str, cache: Cache, threads: int) -> Store:
    """Samples in memory where ``cache`` says so, or where it leaves the choice and they are small."""
    encoder = Encoder(data, data.splits[split])
    if len(encoder.split) == 0:
        raise DataError(f"the split {split!r} is empty")
    if cache is Cache.MEMORY or (cache is Cache.AUTO and estimated_bytes(encoder) <= AUTO_BYTES):
        return MemoryStore(encoder, threads)
    return ReadingStore(encoder)


def estimated_bytes(encoder: Encoder) -> int:
    """From a few samples spread over the split."""
    size = len(encoder.split)
    if all(bulk_column(encoder.split, name, codec, peek=True) is not None for name, codec in encoder.codecs.items()):
        return 0  # it is in memory already
    probes = sorted({size * probe // PROBES for probe in range(PROBES)})
    samples = [sample for probe in probes if not isinstance(sample := encoder.encode(probe), BadSample)]
    total = sum(
        tensor.numel() * tensor.element_size() for sample in samples for encoded in sample.values() if encoded is not None for tensor in encoded.values()
    )
    return total * size // max(1, len(samples))


def bulk_column(split: Split, name: str, codec: Any, peek: bool = False) -> Column | None:
    """All samples' values of one input or target at once, where the dataset has them and the codec can."""
    if not isinstance(split, BulkSplit) or not hasattr(codec, "encode_all") or (values := split.bulk(name)) is None:
        return None
    return Column(values if peek else codec.encode_all(values))
