"""A character model of nanoGPT's size for a CPU on the Bible, by zoo and by plain PyTorch: validation loss and time.

    python tools/bench/nanogpt.py [--steps 2000] [--rounds 1] [--clock cpu] [--threads N] [--json FILE]

Both train 4 layers of width 128 with 4 heads on 64 characters, 12 windows a step (the sizes that nanoGPT's README names for a CPU; Karpathy, 2022,
https://github.com/karpathy/nanoGPT), AdamW with betas .9 and .99, decay .1 of matrices, 100 steps of warm-up, half a cosine to a tenth, clipping at 1.
The plain loop draws windows anywhere in the text, as nanoGPT does; zoo's are neighbours, shuffled. Both are then measured on the same windows, every character
of the validation part once. Times are of everything after the data is there: model, training, and that measure. Exits with 1 where zoo is worse in either.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--rounds", type=int, default=1, help="each with a seed of its own, both sides in turn")
parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time of this process, on a machine that others use too")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--json", type=Path)
options = parser.parse_args() if __name__ == "__main__" else parser.parse_args([])
os.environ["OMP_NUM_THREADS"] = str(options.threads)
os.environ["WANDB_MODE"] = "disabled"

import numpy as np  # noqa: E402 - once the number of threads is set
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tools.figures import markdown, use_this_tree  # noqa: E402

use_this_tree()
OVERRIDES = ["experiment=bible_char", "data.test=0", "data.validation=0.1"]
"""The plain loop is measured on one split; so is zoo."""
CONTEXT, BATCH, WIDTH, LAYERS, HEADS, LR, WARMUP = 64, 12, 128, 4, 4, 1e-3, 100


class Block(nn.Module):
    """Pre-norm, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, places, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, places, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, places, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Plain(nn.Module):
    """A GPT with learned positions and the table of characters as its output."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.characters(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.characters.weight)


def multiplier(step: int, steps: int) -> float:
    if step < WARMUP:
        return (step + 1) / (WARMUP + 1)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def train_plain(ids: Tensor, windows: list[tuple[Tensor, Tensor]], vocabulary: int, seed: int, steps: int) -> float:
    """Nats a character of the windows."""
    torch.manual_seed(seed)
    model = Plain(vocabulary)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=LR, betas=(0.9, 0.99), fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * multiplier(step, steps)
        first = torch.randint(len(ids) - CONTEXT, (BATCH,))
        rows = ids[first[:, None] + torch.arange(CONTEXT + 1)]
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    total = count = 0.0
    with torch.inference_mode():
        for given, told in windows:
            total += float(F.cross_entropy(model(given).flatten(0, 1), told.flatten(), reduction="sum"))
            count += told.numel()
    return total / count


def train_zoo(config: Any, folder: Path, seed: int, steps: int) -> float:
    from zoo.compose import compose
    from zoo.training.job import run_job

    del config
    run_job(compose([*OVERRIDES, f"trainer.max_steps={steps}", f"seed={seed}", "logger=none"]), folder)
    return float(json.loads((folder / "result.json").read_text())["metrics"]["validation/loss"])


def main() -> int:
    torch.set_num_threads(options.threads)
    from zoo.build import build_dataset
    from zoo.compose import compose

    config = compose(OVERRIDES)
    data = build_dataset(config).open()
    codec: Any = data.inputs["text"]
    train, validation = (data.splits[name] for name in ("train", "validation"))
    ids = torch.from_numpy(np.asarray(train.tokens.ids).astype(np.int64))  # type: ignore[attr-defined]
    found = [validation.read(row)["text"] for row in range(len(validation))]
    whole = [window for window in found if len(window.ids) == CONTEXT]
    windows = [
        (torch.stack([window.ids for window in part]), torch.stack([window.following for window in part]))
        for part in (whole[start : start + 256] for start in range(0, len(whole), 256))
    ]
    windows += [(window.ids[None], window.following[None]) for window in found if len(window.ids) < CONTEXT]
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    losses: dict[str, list[float]] = {"plain PyTorch": [], "zoo": []}
    seconds: dict[str, list[float]] = {"plain PyTorch": [], "zoo": []}
    for seed in range(options.rounds):
        began = clock()
        losses["plain PyTorch"].append(train_plain(ids, windows, codec.spec.vocab_size, seed, options.steps))
        seconds["plain PyTorch"].append(clock() - began)
        with tempfile.TemporaryDirectory() as folder:
            began = clock()
            losses["zoo"].append(train_zoo(config, Path(folder) / "run", seed, options.steps))
            seconds["zoo"].append(clock() - began)
    medians = {who: (statistics.median(losses[who]), statistics.median(seconds[who])) for who in losses}
    base = medians["plain PyTorch"]
    rows = [[who, f"{loss:.4f}", f"{took:.1f}", f"{took / base[1]:.3f}"] for who, (loss, took) in medians.items()]
    count = sum(told.numel() for _, told in windows)
    print(f"{options.steps} steps, {options.rounds} seeds, {options.threads} threads, {options.clock} time; {count:,} characters of the validation part\n")
    print(markdown(["trained by", "validation loss", "seconds", "of plain"], rows))
    if options.json:
        options.json.write_text(json.dumps({"losses": losses, "seconds": seconds, "threads": options.threads, "clock": options.clock}, indent=1) + "\n")
    return int(medians["zoo"][0] > base[0] or medians["zoo"][1] > base[1])


if __name__ == "__main__":
    sys.exit(main())
