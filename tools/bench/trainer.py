"""Steps per second of zoo's trainer, of a raw PyTorch loop with the same operations, and of HF Trainer, Lightning and accelerate.

    python tools/bench/trainer.py [--rounds 7] [--models mlp8,mlp64,vit,bert] [--peers raw,zoo,...] [--clock cpu] [--threads N] [--json FILE]

Everyone trains equal models (same initial weights) on the same batches, kept in memory, with fused AdamW, clipping to norm 1 and a cosine
schedule with warm-up, logging and checkpoints off. Rounds are interleaved in one process: each peer trains its own segment in each round, so
that the machine's drift hits all alike. Figures are medians of segment times against the raw loop of the same round, with quartiles.

``zoo, bare`` is the step alone on batches that are there already, as the raw loop has them: what the trainer adds. ``zoo`` is the whole of it:
loader (its columns in memory), counts, finite checks, re-seeding, a log row every 10 steps.
"""

import argparse
import contextlib
import io
import json
import logging
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.base import OpenData
from zoo.data.loader import Loader
from zoo.model import Model
from zoo.optim.groups import ParameterGroups
from zoo.optim.optimizers import adamw
from zoo.optim.schedules import cosine
from zoo.parallel.mesh import Mesh
from zoo.settings import LoaderSettings, Order, TrainerSettings
from zoo.specs import ClassTarget, FeatureSpec, Horizon, ImageInput, InputSpec, Layout, TargetSpec, TextInput
from zoo.structs import Batch, Features, LossTerm, Values
from zoo.training.trainer import Trainer

LR, CLIP, WARMUP = 1e-3, 1.0, 10
CPU = torch.device("cpu")
now = time.perf_counter
"""``--clock cpu`` puts the processor time of this process here: what counts on a machine that others use at the same time."""


# --- models: plain modules, inputs to logits --------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    def __init__(self, dim: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.positions = nn.Parameter(torch.zeros(1, 64, dim))
        self.blocks = nn.Sequential(*(Block(dim, 3) for _ in range(depth)))
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).mT + self.positions).mean(1))


class Bert(nn.Module):
    def __init__(self, dim: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(8000, dim), nn.Parameter(torch.zeros(1, 128, dim))
        self.blocks = nn.Sequential(*(Block(dim, 4) for _ in range(depth)))
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.table(x) + self.positions).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], int, int]] = {
    # model, inputs, batch size, steps of a segment
    "mlp8": (mlp, lambda n: torch.randn(n, 256), 8, 200),
    "mlp64": (mlp, lambda n: torch.randn(n, 256), 64, 100),
    "vit": (Vit, lambda n: torch.randn(n, 3, 32, 32), 16, 12),
    "bert": (Bert, lambda n: torch.randint(0, 8000, (n, 128)), 8, 10),
}


def multiplier(total: int) -> Callable[[int], float]:
    return lambda step: (step + 1) / (WARMUP + 1) if step < WARMUP else 0.5 * (1 + math.cos(math.pi * min(1, (step - WARMUP) / (total - WARMUP))))


# --- peers: each gives a function that trains `steps` more steps ----------------------------------------------------------------------------

Segment = Callable[[int], None]


def batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - size + 1, size):
            rows = order[start : start + size]
            yield x[rows], y[rows]


def raw(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    """The leanest loop that does the same: index a batch, forward, backward, clip, step, schedule."""
    optimizer = torch.optim.AdamW(ParameterGroups(model).split(0.01), lr=LR, fused=True)
    schedule, data, place = multiplier(total), batches(x, y, size), 0

    def segment(steps: int) -> None:
        nonlocal place
        for _ in range(steps):
            inputs, labels = next(data)
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            for group in optimizer.param_groups:
                group["lr"] = LR * schedule(place)
            optimizer.step()
            place += 1
            if place % 10 == 0:
                loss.item()

    return segment


def raw_loader(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    """As people write it: DataLoader, LambdaLR."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier(total))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size, shuffle=True, drop_last=True)

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    data = forever()

    def segment(steps: int) -> None:
        for _ in range(steps):
            inputs, labels = next(data)
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()

    return segment


def accelerate(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier(total))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size, shuffle=True, drop_last=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    data = forever()

    def segment(steps: int) -> None:
        for _ in range(steps):
            inputs, labels = next(data)
            loss = F.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    return segment


def lightning(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    import lightning as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.times = model, {}

        def training_step(self, batch: Any, _: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=LR, fused=True)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier(total)), "interval": "step"}}

    module = Module()

    def segment(steps: int) -> float:
        clock = Clock(steps)

        class Timer(pl.Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                clock.begin()

            def on_train_batch_end(self, *_: Any) -> None:
                clock.end()

        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size, shuffle=True, drop_last=True)
        trainer = pl.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            gradient_clip_val=CLIP, callbacks=[Timer()], barebones=False, inference_mode=False,
        )  # fmt: skip
        trainer.fit(module, loader)
        return clock.seconds

    return segment


def transformers(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    del total  # its schedule is that of a segment
    import transformers as hf

    hf.logging.set_verbosity_error()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.model(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, row: int) -> dict[str, Tensor]:
            return {"x": x[row], "labels": y[row]}

    wrapped = Wrapped()

    def segment(steps: int) -> float:
        clock = Clock(steps)

        class Timer(hf.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                clock.begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.end()

        with tempfile.TemporaryDirectory() as folder:
            arguments = hf.TrainingArguments(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=size, learning_rate=LR, optim="adamw_torch_fused", lr_scheduler_type="cosine",
                warmup_steps=WARMUP, max_grad_norm=CLIP, logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
                dataloader_drop_last=True, weight_decay=0.01, remove_unused_columns=False,
            )  # fmt: skip
            trainer = hf.Trainer(model=wrapped, args=arguments, train_dataset=Rows(), callbacks=[Timer()])
            trainer.remove_callback(hf.trainer_callback.PrinterCallback)
            trainer.train()
        return clock.seconds

    return segment


class Clock:
    """Times the steps of trainers that own their loop, without their set-up: from the first step's start to the last one's end, data included."""

    def __init__(self, steps: int) -> None:
        self.steps, self.first, self.last = steps, 0.0, 0.0

    def begin(self) -> None:
        self.first = self.first or now()

    def end(self) -> None:
        self.last = now()

    @property
    def seconds(self) -> float:
        return self.last - self.first


# --- zoo ------------------------------------------------------------------------------------------------------------------------------------


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


def zoo_trainer(model: nn.Module, loader: Any, total: int) -> Segment:
    whole = Model(encoder=Whole(model), decoder=Straight(), head=Classes(), input="x")
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
        mesh=Mesh(),
        device=CPU,
        log=Silent(),  # type: ignore[arg-type]
    )

    def segment(steps: int) -> None:
        trainer.horizon = Horizon(total_steps=trainer.progress.step + steps, steps_per_epoch=10**9)
        trainer.fit()

    return segment


def zoo_bare(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    return zoo_trainer(model, Ready(x, y, size), total)


def zoo(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    spec = TextInput(name="x", vocab_size=8000, max_length=128) if not x.is_floating_point() else ImageInput(name="x", channels=1, height=1, width=1)
    label = ClassTarget(name="label", labels=tuple("0123456789"))
    data = OpenData(inputs={"x": Row(spec.kind, spec)}, targets={"label": Row(label.kind, label)}, splits={"train": Table(x, y)})  # type: ignore[dict-item]
    loader = Loader(data=data, split="train", settings=LoaderSettings(batch_size=size, order=Order.SHUFFLE), augment={}, seed=0, training=True, batch_size=size)
    return zoo_trainer(model, loader, total)


PEERS: dict[str, Callable[[nn.Module, Tensor, Tensor, int, int], Segment]] = {
    "raw": raw,
    "raw+DataLoader": raw_loader,
    "zoo, bare": zoo_bare,
    "zoo": zoo,
    "accelerate": accelerate,
    "lightning": lightning,
    "transformers": transformers,
}


def measure(case: str, peers: list[str], rounds: int) -> dict[str, Any]:
    make, inputs, size, steps = CASES[case]
    torch.manual_seed(0)
    count = max(2048, size * 64) if case.startswith("mlp") else size * 32
    x, y = inputs(count), torch.randint(0, 10, (count,))
    first = make()
    total = steps * (rounds + 2)
    segments = {}
    for name in peers:
        model = make()
        model.load_state_dict(first.state_dict())
        segments[name] = PEERS[name](model, x, y, size, total)
    times: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(rounds + 1):
        order = peers if number % 2 else peers[::-1]
        for name in order:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                begun = now()
                own = segments[name](steps)
                seconds = own if own is not None else now() - begun
            if number:  # the first round warms up
                times[name].append(seconds / steps * 1e3)
    ratios = {name: [a / b for a, b in zip(times[name], times["raw"], strict=True)] for name in peers}
    extra = {name: [a - b for a, b in zip(times[name], times["raw"], strict=True)] for name in peers}
    return {
        name: {"best_ms": min(times[name]), "ms": quartiles(times[name]), "ratio": quartiles(ratios[name]), "extra_ms": quartiles(extra[name])}
        for name in peers
    }


def quartiles(values: list[float]) -> list[float]:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return [round(low, 4), round(middle, 4), round(high, 4)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--peers", default=",".join(name for name in PEERS if name != "zoo, bare") + ";zoo, bare")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    global now
    now = time.process_time if options.clock == "cpu" else time.perf_counter
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    asked = set(options.peers.replace(";", ",").split(",")) | ({"zoo, bare"} if "bare" in options.peers else set())
    peers = [name for name in PEERS if name in asked or name == "raw"]
    found = {}
    for case in options.models.split(","):
        found[case] = measure(case, peers, options.rounds)
        print(f"\n{case}: batch {CASES[case][2]}, {torch.get_num_threads()} threads, {options.clock} clock, {options.rounds} rounds of {CASES[case][3]} steps")
        heads = ("best ms", "median ms", "to raw", "quartiles", "extra ms", "quartiles")
        print(f"  {'':<16}{heads[0]:>9}{heads[1]:>10}  {heads[2]:>7}  {heads[3]:>15}  {heads[4]:>9}  {heads[5]:>17}")
        for name, figures in found[case].items():
            ms, ratio, extra = figures["ms"], figures["ratio"], figures["extra_ms"]
            columns = f"{figures['best_ms']:>9.3f}{ms[1]:>10.3f}  {ratio[1]:>7.3f}  {ratio[0]:>7.3f} {ratio[2]:>7.3f}"
            print(f"  {name:<16}{columns}  {extra[1]:>+9.3f}  {extra[0]:>+8.3f} {extra[2]:>+8.3f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
