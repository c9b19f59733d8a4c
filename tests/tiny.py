"""Synthetic data and a tiny model for tests of the trainer: sequences of unequal lengths, a class and a label for every position.

Not registered, in no config; the loader below follows ``zoo.data.loader.Loader`` so that tests of the trainer need no codecs.
"""

import math
import typing
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.model import Model
from zoo.random import SampleRandom, current, key
from zoo.specs import FeatureSpec, Layout
from zoo.structs import Batch, Features, LossTerm, Values

WORDS, CLASSES = 11, 4


class Encoder(nn.Module):
    """Embeds, mixes along the sequence, drops out by sample."""

    output_spec = FeatureSpec(dim=8, layout=Layout.SEQUENCE, pooled=True)

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 8)
        self.mix = nn.GRU(8, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.dropout = dropout

    def forward(self, values: Tensor, mask: Tensor) -> Features:
        x = self.table(values)
        if self.dropout and self.training:
            random = current()
            assert random is not None
            # Drawn for a fixed length, so that the padding of the batch has no say.
            keep = random.uniform("drop", 16, 8)[:, : x.shape[1]] >= self.dropout
            x = x * keep / (1 - self.dropout)
        x = self.norm(self.mix(x)[0]) * mask[..., None]
        return Features(tokens=x, mask=mask, pooled=x.sum(1) / mask.sum(1, keepdim=True))


class Nothing(nn.Module):
    output_spec = Encoder.output_spec

    def forward(self, features: Features) -> Features:
        return features


class Figures:
    def __init__(self) -> None:
        self.state = torch.zeros(2, dtype=torch.float64)

    def update(self, prediction: dict[str, Tensor], targets: dict[str, Tensor], valid: Tensor) -> None:
        right = (prediction["logits"].argmax(1) == targets["label"]) & valid
        self.state += torch.stack([right.sum(), valid.sum()])

    def merge(self) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.state)

    def compute(self) -> dict[str, float]:
        return {"accuracy": float(self.state[0] / self.state[1]), "samples": float(self.state[1])}

    def tables(self) -> dict[str, Any]:
        return {}


class Head(nn.Module):
    """Two loss terms with counts of their own: one a row, one a real position (so that unequal lengths matter)."""

    monitor = ("accuracy", "max")
    protocol = "accuracy over rows"

    def __init__(self) -> None:
        super().__init__()
        self.row, self.position = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, features: Features) -> dict[str, Tensor]:
        assert features.pooled is not None
        assert features.tokens is not None
        return {"logits": self.row(features.pooled), "positions": self.position(features.tokens)}

    def count(self, targets: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        return {"row": valid.sum(), "position": ((targets["next"] >= 0) & valid[:, None]).sum()}

    def loss(self, prediction: dict[str, Tensor], targets: dict[str, Tensor], valid: Tensor) -> dict[str, LossTerm]:
        counts = self.count(targets, valid)
        label = targets["label"].masked_fill(~valid, -1)
        following = targets["next"].masked_fill(~valid[:, None], -1)
        row = F.cross_entropy(prediction["logits"], label, ignore_index=-1, reduction="sum")
        position = F.cross_entropy(prediction["positions"].flatten(0, 1), following.flatten(), ignore_index=-1, reduction="sum")
        return {"row": LossTerm(row, counts["row"]), "position": LossTerm(position, counts["position"])}

    def metrics(self) -> Figures:
        return Figures()


def make_model(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(7)
    return Model(encoder=Encoder(dropout), decoder=Nothing(), head=Head(), input="words").to(dtype)


class TinyLoader:
    """``Loader`` over ``size`` made-up samples. Each sample depends on its id alone, its batch only in how far it is padded."""

    bad_count = 0

    def __init__(
        self, *, size: int = 37, batch_size: int = 8, seed: int = 0, rank: int = 0, world: int = 1, micro_batches: int = 1, training: bool = True
    ) -> None:
        self.size, self.batch_size, self.seed, self.training = size, batch_size, seed, training
        self.rank, self.world, self.micro_batches = rank, world, micro_batches
        self.state = {"epoch": 0, "batch": 0}

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.size / self.batch_size)

    def describe(self, sample: int) -> str:
        return f"line {sample}"

    def state_dict(self) -> dict[str, int]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.state = dict(state)

    def __iter__(self) -> Iterator[list[Batch]]:
        epoch, last = self.state["epoch"], self.steps_per_epoch - 1
        generator = torch.Generator().manual_seed(key(self.seed, epoch) >> 1)
        order = torch.randperm(self.size, generator=generator) if self.training else torch.arange(self.size)
        for place in range(self.state["batch"], last + 1):
            rows = order[place * self.batch_size : (place + 1) * self.batch_size]
            parts = self.world * self.micro_batches
            bounds = [len(rows) * part // parts for part in range(parts + 1)]
            mine = range(self.rank * self.micro_batches, (self.rank + 1) * self.micro_batches)
            self.state = {"epoch": epoch, "batch": place + 1} if place < last else {"epoch": epoch + 1, "batch": 0}
            yield [self.part(rows[bounds[part] : bounds[part + 1]], rows[:1]) for part in mine]

    def part(self, rows: Tensor, spare: Tensor) -> Batch:
        batch = make_batch(rows if len(rows) else spare)
        return batch if len(rows) else replace(batch, valid=torch.zeros_like(batch.valid))


def make_batch(ids: Tensor) -> Batch:
    random = SampleRandom(0, 0, ids)
    lengths = 2 + random.integers("length", 12, 1)[:, 0]
    longest = int(lengths.max())
    mask = torch.arange(longest) < lengths[:, None]
    words = torch.where(mask, 1 + random.integers("words", WORDS - 1, 16)[:, :longest], 0)
    label = (words.sum(1) % CLASSES).long()
    following = torch.where(mask, words % CLASSES, -1)
    following[:, 0] = -1
    return Batch({"words": Values(words, mask)}, {"label": label, "next": following}, ids=ids, valid=torch.ones(len(ids), dtype=torch.bool))


class Rows:
    """A log that keeps its rows in memory, and cuts them back on resume as ``RunLog`` does."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def row(self, step: int, values: Any) -> None:
        self.rows.append((step, dict(values)))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": len(self.rows)}

    def rewind(self, state: Any) -> None:
        del self.rows[state["rows"] :]


def make_trainer(
    folder: Any = None,
    *,
    rank: int = 0,
    world: int = 1,
    dropout: float = 0.2,
    optimizer: str = "adamw",
    loader: Any = None,
    groups: Any = None,
    model: Any = None,
    **settings: Any,
) -> Any:
    """A trainer of the tiny model over the tiny data; on disk in ``folder``, if one is given."""
    from zoo.optim.freeze import Freezer
    from zoo.optim.groups import ParameterGroups, scale_rates
    from zoo.parallel.collectives import Group
    from zoo.parallel.mesh import replicated
    from zoo.registry import OPTIMIZERS, SCHEDULES
    from zoo.schema import to_python
    from zoo.settings import GroupSettings, Mode, TrainerSettings
    from zoo.training.checkpoint import Checkpointer
    from zoo.training.evaluator import Evaluator
    from zoo.training.state import Monitor, horizon_of
    from zoo.training.trainer import Trainer

    hints = typing.get_type_hints(TrainerSettings)
    given = {"max_steps": 12, "log_every": 3, "accumulate": 2, "ema": 0.9} | settings
    options = TrainerSettings(**{name: to_python(value, hints[name]) for name, value in given.items()})
    group, device = Group(rank, world), torch.device("cpu")
    model = model or make_model(dropout)
    train = loader or TinyLoader(rank=rank, world=world, micro_batches=options.accumulate)
    horizon = horizon_of(options, train.steps_per_epoch)
    Freezer(model, options)
    parameters = ParameterGroups(model, GroupSettings(overrides=groups or {}))
    built = OPTIMIZERS.build(OPTIMIZERS.check_node({"name": optimizer, "lr": 0.01}, "optimizer"), "optimizer", groups=parameters)
    scale_rates(built)
    validation = TinyLoader(size=23, batch_size=7, rank=rank, world=world, training=False)
    return Trainer(
        model=model,
        optimizer=built,
        schedule=SCHEDULES.build(SCHEDULES.check_node({"name": "cosine", "warmup_steps": 3}, "schedule"), "schedule", horizon=horizon),
        horizon=horizon,
        train=train,
        evaluator=Evaluator(loader=validation, split="validation", group=group, device=device, precision=options.precision),  # type: ignore[arg-type]
        settings=options,
        seed=3,
        mesh=replicated(group),
        device=device,
        monitor=Monitor("validation/accuracy", Mode.MAX),
        log=Rows() if rank == 0 else None,
        checkpointer=Checkpointer(folder, options.keep_last) if folder is not None else None,
    )
