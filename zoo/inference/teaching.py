"""Data whose samples a teacher has seen: its scores are part of the target, computed once when the data is opened (Hinton et al., 2015,
https://arxiv.org/abs/1503.02531).

Letters: S samples, C classes.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.data.base import BoundSplit, Dataset, OpenData, SelectiveSplit, Split
from zoo.data.codecs.taught import TaughtCodec, taught
from zoo.data.store import BulkSplit
from zoo.errors import ConfigError, DataError
from zoo.specs import ClassTarget, DataSpec, Labelling, TargetSpec

BATCH = 64


class Taught:
    """A data set with a teacher. Its random transforms are the student's alone: the teacher sees every sample as it is.

    Args:
        dataset: with one target of single labels.
        teacher: name, path or address of a model that tells the same labels, in any order.
        device: that it computes on.
    """

    def __init__(self, dataset: Dataset, *, teacher: str, device: str) -> None:
        self.dataset, self.teacher, self.device = dataset, teacher, device

    def sketch(self) -> DataSpec:
        spec = self.dataset.sketch()
        name = self._target(spec.targets)
        return replace(spec, targets=tuple(taught(target) if target.name == name else target for target in spec.targets))  # type: ignore[arg-type]

    def open(self) -> OpenData:
        """Raises:
        ConfigError: where the teacher cannot be had, or tells other labels.
        DataError: where the data lacks what it takes.
        """
        from zoo.hub.resolve import resolve
        from zoo.inference.predictor import Predictor

        opened = self.dataset.open()
        name = self._target([codec.spec for codec in opened.targets.values()])
        labels: Any = opened.targets[name]
        predictor = Predictor.load(resolve(self.teacher), device=self.device)
        order = places(predictor.model.head, labels.spec.labels, self.teacher)
        splits: dict[str, Split] = {}
        for split, samples in opened.splits.items():
            sys.stderr.write(f"teacher {self.teacher}: reads {len(samples):,} samples of {split}\n")
            splits[split] = TaughtSplit(samples, name, scores_of(predictor, samples)[:, order])
        targets = {**opened.targets, name: TaughtCodec(labels=labels)}
        return replace(opened, splits=splits, targets=targets, notes={**opened.notes, "teacher": self.teacher})

    def _target(self, targets: Sequence[TargetSpec]) -> str:
        """The name of the one target that a teacher can tell."""
        found = [target.name for target in targets if type(target) is ClassTarget and target.labelling is Labelling.SINGLE]
        if len(found) != 1:
            kinds = ", ".join(f"{target.name} ({target.kind})" for target in targets) or "none"
            raise ConfigError(
                "data.teacher", f"a teacher tells one target of single labels, and the data has {len(found)} of them: {kinds}", "data.teacher=null"
            )
        return found[0]


def places(head: Any, labels: Sequence[str], teacher: str) -> Tensor:
    """C int64: where the teacher has each label.

    Raises:
        ConfigError: where it does not tell the same.
    """
    own = getattr(getattr(head, "target", None), "labels", None)
    if own is None or not isinstance(head.target, ClassTarget):
        raise ConfigError("data.teacher", f"{teacher} tells no labels: its head is {type(head).__name__}", "a model with head=classification")
    if set(own) != set(labels):
        absent, more = sorted(set(labels) - set(own)), sorted(set(own) - set(labels))
        told = "; ".join(f"{what} {', '.join(names[:5])}" for what, names in (("it lacks", absent), ("it has besides", more)) if names)
        raise ConfigError("data.teacher", f"{teacher} tells other labels than the data: {told}", "a teacher that was trained on these labels")
    return torch.tensor([own.index(label) for label in labels])


@torch.inference_mode()
def scores_of(predictor: Any, split: Split) -> Tensor:
    """S C fp32: the teacher's logits; NaN for samples that it cannot read."""
    names, model = predictor.model.inputs, predictor.model
    found = torch.full((len(split), len(model.head.target.labels)), torch.nan)
    samples = only(split, names)
    sizes = torch.tensor([size_of(samples, place) for place in range(len(split))])
    for rows in sizes.argsort(stable=True).split(BATCH):  # of one size together: less is computed in vain
        raws = {place: raw for place in rows.tolist() if (raw := raw_of(samples, place, names)) is not None}
        if not raws:
            continue
        try:
            batch = predictor.processor.batch(list(raws.values()), with_targets=False).to(predictor.device)
        except DataError:
            continue  # none of them can be read: the loader names them, where the student cannot either
        logits = model(batch.inputs)["logits"].float().cpu()
        found[list(raws)] = torch.where(batch.valid.cpu()[:, None], logits, torch.nan)
    return found.clone()


def only(split: Split, names: Sequence[str]) -> Split:
    """With these inputs alone.

    Raises:
        DataError: where the data does not have them.
    """
    samples = split.only(names) if isinstance(split, SelectiveSplit) else split
    for place in range(min(len(samples), 16)):
        raw = raw_of(samples, place, ())
        if raw is not None and (absent := [name for name in names if name not in raw]):
            raise DataError(f"the teacher takes {', '.join(names)}, and the data has no {', '.join(absent)}; it has {', '.join(raw)}")
    return samples


def raw_of(samples: Split, place: int, names: Sequence[str]) -> Mapping[str, Any] | None:
    try:
        raw = samples.read(place)
    except DataError:
        return None
    return {name: raw[name] for name in names if raw.get(name) is not None} if names else raw


def size_of(samples: Split, place: int) -> int:
    """Letters of a sample's texts; 0 for others."""
    raw = raw_of(samples, place, ())
    return sum(len(value) for value in raw.values() if isinstance(value, str)) if raw is not None else 0


class TaughtSplit:
    """Samples with a teacher's scores.

    Args:
        samples: without.
        target: the name of the target that they belong to.
        scores: S C.
    """

    def __init__(self, samples: Split, target: str, scores: Tensor) -> None:
        self.samples, self.target, self.scores = samples, target, scores

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Mapping[str, Any]:
        raw = self.samples.read(index)
        return {**raw, self.target: {"label": raw[self.target], "scores": self.scores[index]}} if self.target in raw else raw

    def describe(self, index: int) -> str:
        return self.samples.describe(index)

    def only(self, names: Collection[str]) -> "TaughtSplit":
        samples = self.samples.only(names) if isinstance(self.samples, SelectiveSplit) else self.samples
        return TaughtSplit(samples, self.target, self.scores)

    def bulk(self, name: str) -> Tensor | None:
        return self.samples.bulk(name) if isinstance(self.samples, BulkSplit) and name != self.target else None

    def together(self) -> Tensor | None:
        return self.samples.together() if isinstance(self.samples, BoundSplit) else None
