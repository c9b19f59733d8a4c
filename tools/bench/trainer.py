"""Steps per second of zoo's trainer, of a raw PyTorch loop with the same operations, and of HF Trainer, Lightning and accelerate.

    python tools/bench/trainer.py [--rounds 7] [--models mlp8,mlp64,vit,bert] [--peers "raw;zoo;..."] [--clock cpu] [--threads N] [--json FILE]

Everyone trains equal models (same initial weights) on the same batches, kept in memory, with fused AdamW, clipping to norm 1 and a cosine
schedule with warm-up, logging and checkpoints off. Rounds are interleaved in one process: each peer trains its own segment in each round, so
that the machine's drift hits all alike. Figures are medians of segment times against the raw loop of the same round, with quartiles.

``zoo, bare`` is the step alone on batches that are there already, as the raw loop has them: what the trainer adds. ``zoo`` is the whole of it:
loader (its columns in memory), counts, finite checks, re-seeding, a log row every 10 steps. ``zoo, compile`` is that with ``trainer.compile=true``
(each block, or the whole MLP; the time to compile falls into the first round, which does not count), and its gain over ``zoo`` is told besides.
What packing gains depends on the texts' lengths: ``tools/bench/batches.py``.

Exits with 1 where zoo takes longer than any peer that is no raw loop (above 60 ms: beyond the quartiles), or where its step alone adds more than 0.05 ms
to a shorter step, beyond the quartiles.
"""

import argparse
import contextlib
import io
import json
import logging
import os
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

from tools.bench.models import CASES, CLIP, LR, WARMUP, batches, lean_loop, multiplier
from tools.bench.zoo_side import zoo, zoo_bare, zoo_compiled
from tools.figures import markdown, quartiles, verdict

SLOW_MS, ADDED_MS = 60.0, 0.05
RIVALS = ("accelerate", "lightning", "transformers")
now = time.perf_counter
"""``--clock cpu`` puts the processor time of this process here: what counts on a machine that others use at the same time."""


# --- peers: each gives a function that trains `steps` more steps ----------------------------------------------------------------------------

Segment = Callable[[int], None]


def raw(model: nn.Module, x: Tensor, y: Tensor, size: int, total: int) -> Segment:
    """The leanest loop that does the same."""
    return lean_loop(model, model, batches(x, y, size), total)


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


PEERS: dict[str, Callable[[nn.Module, Tensor, Tensor, int, int], Segment]] = {
    "raw": raw,
    "raw+DataLoader": raw_loader,
    "zoo, bare": zoo_bare,
    "zoo": zoo,
    "zoo, compile": zoo_compiled,
    "accelerate": accelerate,
    "lightning": lightning,
    "transformers": transformers,
}


def measure(case: str, peers: list[str], rounds: int, steps: int | None = None) -> dict[str, Any]:
    make, inputs, size, usual = CASES[case]
    steps = steps or usual
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
    found = {}
    for name in peers:
        ratios = [a / b for a, b in zip(times[name], times["raw"], strict=True)]
        extra = [a - b for a, b in zip(times[name], times["raw"], strict=True)]
        found[name] = {"best_ms": min(times[name]), "ms": quartiles(times[name]), "ratio": quartiles(ratios), "extra_ms": quartiles(extra)}
        if "zoo" in times:
            found[name]["to_zoo"] = quartiles([a / b for a, b in zip(times[name], times["zoo"], strict=True)])
    return found


def beyond(case: str, found: dict[str, Any]) -> list[str]:
    """Where zoo is slower than it may be."""
    slow, problems = found["raw"]["ms"][1] > SLOW_MS, []
    if "zoo, bare" in found and not slow and found["zoo, bare"]["extra_ms"][0] > ADDED_MS:
        low, middle, high = found["zoo, bare"]["extra_ms"]
        problems.append(f"{case}: the trainer adds {middle:.3f} ms to a step ({low:.3f} to {high:.3f}), {ADDED_MS} are allowed")
    for name in RIVALS:
        if name in found and "zoo" in found:
            low, middle, high = found[name]["to_zoo"]
            if (high if slow else middle) < 1:
                problems.append(f"{case}: {name} takes {middle:.3f} of zoo's time ({low:.3f} to {high:.3f})")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--peers", default=";".join(PEERS), help="separated by semicolons; the raw loop always takes part")
    parser.add_argument("--steps", type=int, help="of a segment, instead of each model's own number")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    global now
    now = time.process_time if options.clock == "cpu" else time.perf_counter
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    asked = options.peers.split(";")
    if unknown := set(asked) - set(PEERS):
        parser.error(f"--peers: {', '.join(unknown)}; there are {'; '.join(PEERS)}")
    peers = [name for name in PEERS if name in asked or name == "raw"]
    everything, problems = {}, []
    heads = ["peer", "best ms", "median ms", "to raw", "quartiles", "extra ms", "quartiles", "to zoo", "quartiles"]
    for case in options.models.split(","):
        found = everything[case] = measure(case, peers, options.rounds, options.steps)
        steps = options.steps or CASES[case][3]
        print(f"\n{case}: batch {CASES[case][2]}, {torch.get_num_threads()} threads, {options.clock} clock, {options.rounds} rounds of {steps} steps\n")
        rows = []
        for name, figures in found.items():
            (_, ms, _), ratio, extra, to_zoo = figures["ms"], figures["ratio"], figures["extra_ms"], figures.get("to_zoo")
            row = [name, f"{figures['best_ms']:.3f}", f"{ms:.3f}", f"{ratio[1]:.3f}", f"{ratio[0]:.3f} to {ratio[2]:.3f}", f"{extra[1]:+.3f}"]
            row += [f"{extra[0]:+.3f} to {extra[2]:+.3f}", *([f"{to_zoo[1]:.3f}", f"{to_zoo[0]:.3f} to {to_zoo[2]:.3f}"] if to_zoo else ["", ""])]
            rows.append(row)
        print(markdown(heads, rows), flush=True)
        problems += beyond(case, found)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    print()
    return verdict(problems)


if __name__ == "__main__":
    sys.exit(main())
