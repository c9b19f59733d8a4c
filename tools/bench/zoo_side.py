"""zoo's trainer around a plain module, for benches."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.bench.models import CLIP, LR, WARMUP, batches
from zoo.data.base import OpenData
from zoo.data.loader import Loader
from zoo.model import Model
from zoo.optim.groups import ParameterGroups
from zoo.optim.optimizers import adamw
from zoo.optim.schedules import cosine
from zoo.parallel.mesh import Mesh
from zoo.parallel.parallelize import compile_blocks
from zoo.settings import LoaderSettings, Order, TrainerSettings
from zoo.specs import ClassTarget, FeatureSpec, Horizon, ImageInput, InputSpec, Layout, TargetSpec, TextInput
from zoo.structs import Batch, Features, LossTerm, Values
from zoo.training.trainer import Trainer

CPU = torch.device("cpu")
Segment = Callable[[int], None]


class Whole(nn.Module):
    """A plain module as a zoo encoder."""

    output_spec = FeatureSpec(dim=10, layout=Layout.VECTOR, pooled=True)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:  # noqa: ARG002
        return Features(pooled=self.model(values))


class Straight(nn.Module):
    output_spec = Whole.output_spec

    def forward(self, features: Features) -> Features:
        return features


class Classes(nn.Module):
    """The least that a classification head does: what the raw loops do, as sums."""

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"logits": features.pooled}  # type: ignore[dict-item]

    def count(self, targets: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        return {"class": valid.sum()}

    def loss(self, prediction: dict[str, Tensor], targets: dict[str, Tensor], valid: Tensor) -> dict[str, LossTerm]:
        label = targets["label"].masked_fill(~valid, -1)
        return {"class": LossTerm(F.cross_entropy(prediction["logits"], label, ignore_index=-1, reduction="sum"), valid.sum())}


class Ready:
    """Batches as the raw loop makes them."""

    bad_count = 0

    def __init__(self, x: Tensor, y: Tensor, size: int) -> None:
        self.data, self.batch_size, self.valid = batches(x, y, size), size, torch.ones(size, dtype=torch.bool)
        self.ids = torch.arange(size)

    def describe(self, sample: int) -> str:
        return str(sample)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": 0, "batch": 1}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass

    def __iter__(self) -> Iterator[list[Batch]]:
        for inputs, labels in self.data:
            yield [Batch({"x": Values(inputs)}, {"label": labels}, ids=self.ids, valid=self.valid)]


class Row:
    """One tensor a row, as it is."""

    def __init__(self, kind: str, spec: InputSpec | TargetSpec) -> None:
        self.kind, self.spec, self.ragged, self.pad = kind, spec, None, 0

    def encode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"values": raw}

    def finish(self, values: Values) -> Values:
        return values


class Table:
    """A split that gives its columns whole."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.columns = {"x": x, "label": y}

    def __len__(self) -> int:
        return len(self.columns["x"])

    def read(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}

    def describe(self, index: int) -> str:
        return str(index)


class Silent:
    def row(self, step: int, values: Any) -> None:  # noqa: ARG002
        json.dumps(dict(values))

    def state_dict(self) -> dict[str, Any]:
        return {}


def zoo_trainer(model: nn.Module, loader: Any, total: int, mesh: Mesh | None = None, *, compiled: bool = False) -> Segment:
    whole = Model(encoder=Whole(model), decoder=Straight(), head=Classes(), input="x")
    if compiled:
        compile_blocks(whole)
    horizon = Horizon(total_steps=10**9, steps_per_epoch=10**9)
    trainer = Trainer(
        model=whole,
        optimizer=adamw(groups=ParameterGroups(whole), lr=LR),
        schedule=cosine(horizon=Horizon(total_steps=total, steps_per_epoch=total), warmup_steps=WARMUP),
        horizon=horizon,
        train=loader,
        evaluator=None,
        settings=TrainerSettings(clip_norm=CLIP, log_every=10, max_epochs=None, max_steps=1, eval_every=10**9, checkpoint_every=10**9),
        seed=0,
        mesh=mesh or Mesh(),
        device=CPU,
        log=Silent(),  # type: ignore[arg-type]
    )

    def segment(steps: int) -> None:
        trainer.horizon = Horizon(total_steps=trainer.progress.step + steps, steps_per_epoch=10**9)
        trainer.fit()

    return segment


def zoo_bare(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    return zoo_trainer(model, Ready(x, y, size), total)


def zoo(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int, mesh: Mesh | None = None, *, compiled: bool = False) -> Segment:
    spec = TextInput(name="x", vocab_size=8000, max_length=128) if not x.is_floating_point() else ImageInput(name="x", channels=1, height=1, width=1)
    label = ClassTarget(name="label", labels=tuple("0123456789"))
    data = OpenData(inputs={"x": Row(spec.kind, spec)}, targets={"label": Row(label.kind, label)}, splits={"train": Table(x, y)})  # type: ignore[dict-item]
    settings, group = LoaderSettings(batch_size=size, order=Order.SHUFFLE), (mesh or Mesh()).data
    loader = Loader(data=data, split="train", settings=settings, augment={}, seed=0, rank=group.rank, world=group.size, training=True, batch_size=size)
    return zoo_trainer(model, loader, total, mesh, compiled=compiled)


def zoo_compiled(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    return zoo(model, x, y, size, total, compiled=True)
