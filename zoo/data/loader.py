"""Batches of a split, in an order and with augmentation that depend on (seed, epoch, sample) alone.

The loader's state is (epoch, global batches done). It depends on neither ranks nor workers, and moves when a batch is handed out, not
when it is prefetched, so that a run goes on from any batch, on any number of processes. The samples that could not be read go with it.

A sample that cannot be read is left out, told once on standard error, and counted; past data.max_bad_samples the run stops. Where samples
are kept in memory every rank has read the whole split, and all count the same. Where they are read when a batch needs them, each rank
counts those that it met, and its failure ends the job: the limit is then one of each process.

Letters: S samples, B rows of a global batch, R ranks, A micro-batches.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from zoo.data.base import BoundSplit, OpenData, Split, Transform
from zoo.data.budget import budgets_of
from zoo.data.collate import finished
from zoo.data.order import Plan, Planner, split_evenly
from zoo.data.packing import pack
from zoo.data.store import MemoryStore, Store, open_store
from zoo.errors import CheckpointError, ConfigError, DataError
from zoo.random import SampleRandom, key
from zoo.settings import LoaderSettings, Order
from zoo.structs import BadSample, Batch

TOLD = 20
"""Bad samples of a split that are told one by one."""


class Loader:
    """Global batches of one split, as this rank's share of each.

    Args:
        data: opened.
        split: "train", "validation", "test".
        settings: order, cache, workers and the limit of bad samples.
        augment: random transforms by label; used in training only.
        seed: the run's.
        rank: of this process.
        world: processes that share each global batch.
        micro_batches: parts that each process splits its share into.
        training: shuffle and augment; otherwise in order, as they are.
        batch_size: samples of a global batch at most.
    """

    def __init__(
        self,
        *,
        data: OpenData,
        split: str,
        settings: LoaderSettings,
        augment: Mapping[str, Transform],
        seed: int,
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
        training: bool,
        batch_size: int,
    ) -> None:
        if split not in data.splits:
            raise DataError(f"the data has no split {split!r}; it has {', '.join(data.splits)}")
        assert 0 <= rank < world, f"rank {rank} of {world}"
        assert min(micro_batches, batch_size) >= 1
        self.settings, self.split, self.training = settings, split, training
        self._samples = data.splits[split]
        self._store = open_store(data, split, settings.cache, max(1, settings.workers))
        self._bad: dict[str, str] = {}
        self._speaks = rank == 0 or not isinstance(self._store, MemoryStore)  # what all ranks know, one of them says
        self._check_bad(self._store.bad.values() if isinstance(self._store, MemoryStore) else ())
        if training:
            check_augment(augment, data)
        order = settings.order if training else Order.SEQUENTIAL
        planner = make_planner(self._store, data, split, settings, order, seed, batch_size, training=training)
        self.steps_per_epoch = planner.steps
        self.batch_size = max(1, round(self.size / planner.steps)) if planner.budgeted else batch_size
        self._maker = BatchMaker(self._store, data, settings, dict(augment) if training else {}, seed, planner, (rank, world, micro_batches), training=training)
        self._workers: DataLoader[list[Batch]] | None = None
        self._plan: list[tuple[int, int]] = []
        self._epoch, self._batch = 0, 0

    @property
    def size(self) -> int:
        """Samples of the split."""
        return len(self._store)

    @property
    def bad(self) -> list[BadSample]:
        """Samples that this rank could not read so far, those of a state that it went on from included; in the order of meeting them."""
        return [BadSample(sample, reason) for sample, reason in self._bad.items()]

    @property
    def bad_count(self) -> int:
        return len(self._bad)

    def describe(self, sample: int) -> str:
        """A sample's name for people, by its id in a batch."""
        return self._samples.describe(sample)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"epoch": self._epoch, "batch": self._batch} | ({"bad": [list(entry) for entry in self._bad.items()]} if self._bad else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the split and the batch size have to be the same as when it was taken. Bad samples of before stay counted."""
        epoch, batch = state["epoch"], state["batch"]
        if epoch < 0 or not 0 <= batch < self.steps_per_epoch:
            raise CheckpointError(
                f"loader state {dict(state)} does not fit {self.size} samples in batches of {self.batch_size}: an epoch has {self.steps_per_epoch}"
            )
        self._epoch, self._batch = epoch, batch
        for sample, reason in state.get("bad", ()):
            self._bad.setdefault(sample, reason)

    def __iter__(self) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each global batch, from the state to the end of its epoch."""
        epoch, last = self._epoch, self.steps_per_epoch - 1
        for batch, parts in zip(range(self._batch, last + 1), self._parts(epoch), strict=True):
            self._check_bad(sample for part in parts for sample in part.bad)
            self._epoch, self._batch = (epoch, batch + 1) if batch < last else (epoch + 1, 0)
            yield parts

    def longest(self, count: int) -> Batch:
        """The samples with the most positions, at most ``count``, as one batch: what memory has to be enough for."""
        lengths = self._store.lengths()
        total = sum(lengths.values()) if lengths else torch.zeros(self.size)
        assert isinstance(total, torch.Tensor)
        rows = total.argsort(descending=True, stable=True)[:count]
        return self._maker.part(rows, rows[:1], epoch=0)

    def _parts(self, epoch: int) -> Iterator[list[Batch]]:
        plan = [(epoch, batch) for batch in range(self._batch, self.steps_per_epoch)]
        if self.settings.workers == 0:
            return (self._maker[place] for place in plan)
        if self._workers is None:
            self._workers = DataLoader(
                self._maker,
                sampler=self._plan,  # a list that is refilled for every epoch
                batch_size=None,
                num_workers=self.settings.workers,
                persistent_workers=True,
                worker_init_fn=_one_thread,
                generator=torch.Generator(),  # so that starting workers draws nothing from the process's own
            )
        self._plan[:] = plan
        return iter(self._workers)

    def _check_bad(self, samples: Iterable[BadSample]) -> None:
        for sample, reason in samples:
            if sample in self._bad:
                continue
            self._bad[sample] = reason
            if self._speaks and len(self._bad) <= TOLD:
                more = "; further ones are counted and not told" if len(self._bad) == TOLD else ""
                sys.stderr.write(f"{self.split}: {sample} is left out: {reason}{more}\n")
        if len(self._bad) > self.settings.max_bad_samples:
            listed = "\n".join(f"  {sample}: {reason}" for sample, reason in list(self._bad.items())[:TOLD])
            more = f"\n  and {len(self._bad) - TOLD} more" if len(self._bad) > TOLD else ""
            raise DataError(
                f"{len(self._bad)} samples of the split {self.split!r} cannot be used, more than data.max_bad_samples={self.settings.max_bad_samples}:\n"
                f"{listed}{more}\n  way out: mend them, or go on without these samples: data.max_bad_samples={len(self._bad)} or more"
            )


class BatchMaker(TorchDataset[list[Batch]]):
    """(epoch, batch) -> this rank's micro-batches; pure, so any process may make any batch.

    Args:
        store: the samples.
        data: for its codecs.
        settings: whether to pack.
        augment: random transforms by label.
        seed: the run's.
        planner: of the epochs.
        parts: rank, number of ranks, micro-batches of each.
        training: whether what targets draw is drawn anew in every epoch; else it is always the same.
    """

    def __init__(
        self,
        store: Store,
        data: OpenData,
        settings: LoaderSettings,
        augment: dict[str, Transform],
        seed: int,
        planner: Planner,
        parts: tuple[int, int, int],
        *,
        training: bool,
    ) -> None:
        self._store, self._codecs, self._augment, self._seed = store, data.inputs, augment, seed
        self._draws: dict[str, Any] = {name: codec for name, codec in data.targets.items() if hasattr(codec, "draw")}
        self._training = training
        self._planner, self._parts, self._packs = planner, parts, settings.packs
        lengths = store.lengths() if planner.budgeted or settings.packs else None
        self._costs = sum(lengths.values(), torch.zeros(len(store), dtype=torch.float64)) if lengths else None
        self._known: tuple[int, Plan] | None = None

    def __getitem__(self, place: tuple[int, int]) -> list[Batch]:
        epoch, batch = place
        rows = self._plan(epoch).rows(batch)
        rank, world, micro_batches = self._parts
        costs = None if self._costs is None else self._costs[rows]
        parts = split_evenly(costs, len(rows), world * micro_batches, packed=self._packs)
        first = rank * micro_batches
        return [self.part(rows[part], rows[:1], epoch) for part in parts[first : first + micro_batches]]

    def _plan(self, epoch: int) -> Plan:
        if self._known is None or self._known[0] != epoch:
            self._known = epoch, self._planner.plan(epoch)
        return self._known[1]

    def part(self, rows: torch.Tensor, spare: torch.Tensor, epoch: int) -> Batch:
        """A part without rows gets one that counts for nothing, since every process has to take the step."""
        part = self._store.fetch(rows if len(rows) else spare)
        if not len(rows):
            part = replace(part, valid=torch.zeros_like(part.valid), bad=())
        inputs, targets = dict(part.inputs), part.targets
        for name, codec in self._draws.items():
            random = SampleRandom(key(self._seed if self._training else 0, "target", name), epoch if self._training else 0, part.ids)
            inputs[codec.source], targets = codec.draw(inputs[codec.source], targets, random)
        for label, transform in self._augment.items():
            random = SampleRandom(key(self._seed, "augment", label), epoch, part.ids)
            for name, codec in self._codecs.items():
                if codec.spec.kind == transform.input_kind:
                    inputs[name] = transform(inputs[name], random)
        inputs = {name: finished(codec, inputs[name], part.inputs[name].present) for name, codec in self._codecs.items()}
        positions = sum(int(values.mask[part.valid].sum()) for values in inputs.values() if values.mask is not None)
        packed = {name: pack(values) for name, values in inputs.items()} if self._packs else inputs
        return replace(part, inputs=packed, targets=dict(targets), positions=positions)


def make_planner(store: Store, data: OpenData, split: str, settings: LoaderSettings, order: Order, seed: int, batch_size: int, *, training: bool) -> Planner:
    """The plan of a split's epochs.

    Raises:
        ConfigError: where lengths are needed and there are none.
    """
    lengths = store.lengths()
    if order is Order.BUCKETS and not lengths:
        raise ConfigError(
            "data.order",
            "buckets need the length of every sample, and these have one shape or are not in memory",
            "data.order=shuffle",
            "data.cache=memory",
        )
    if settings.packs and lengths == {}:
        raise ConfigError("data.packing", "the samples have one shape, so that there is no padding to save", "data.packing=none")
    budgets = budgets_of(settings, [codec.spec for codec in data.inputs.values()], lengths, len(store))
    together = together_of(data.splits[split]) if training else None
    if together is not None and (order is Order.BUCKETS or budgets):
        given = "data.order=buckets" if order is Order.BUCKETS else "a budget of a batch"
        raise ConfigError(
            "data.together",
            f"rows that come in one batch and {given}, which deals them by their lengths, exclude each other",
            "data.order=shuffle and data.batch_size alone; data.packing=flat saves the padding all the same",
            "data.together=null",
        )
    return Planner(
        len(store),
        order=order,
        seed=seed,
        batch_size=batch_size,
        lengths=torch.stack(list(lengths.values()), dim=1) if lengths else None,
        budgets=budgets if training else [budget.doubled() for budget in budgets],
        together=together,
    )


def together_of(split: Split) -> torch.Tensor | None:
    """S int64, equal for samples that belong into one batch; None where the split binds none."""
    return split.together() if isinstance(split, BoundSplit) else None


def check_augment(augment: Mapping[str, Transform], data: OpenData) -> None:
    """Whether the options of random transforms fit the inputs that they change.

    Raises:
        ConfigError: by the transform's label.
    """
    for label, transform in augment.items():
        for codec in data.inputs.values():
            if codec.spec.kind == transform.input_kind and (check := getattr(transform, "check", None)) is not None:
                try:
                    check(codec.spec)
                except ValueError as error:
                    raise ConfigError(f"data.augment.{label}", str(error)) from error


def _one_thread(worker: int) -> None:  # noqa: ARG001 - the signature is torch's
    torch.set_num_threads(1)
