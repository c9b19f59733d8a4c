"""Small untrained bundles of every kind of data, made without data: for tests of what a bundle is and of what predicts with it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.build import build_model
from zoo.config import RunConfig
from zoo.data.codecs.audio import AudioCodec
from zoo.data.codecs.history import Catalogue, HistoryCodec, ItemCodec
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec, NumberCodec
from zoo.data.codecs.table import TableCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.hub.bundle import write_bundle

KINDS = ("image", "text", "audio", "table", "history")
SEVERAL = "several"
"""An image and a text and a row of a table, of which the text and the row may be absent."""
LABELS = ("no", "yes", "so so")
COLOURS = ["blue", "red"]
ITEMS = [f"film-{number}" for number in range(1, 13)]


def processor(kind: str) -> Processor:
    label = {"label": ClassCodec(name="label", labels=LABELS)}
    match kind:
        case "image":
            return Processor({"image": ImageCodec(name="image", channels=1, size=(8, 8))}, label)
        case "text":
            return Processor({"text": TextCodec(name="text", tokenizer=ByteTokenizer(), max_length=32)}, label)
        case "audio":
            return Processor({"audio": AudioCodec(name="audio", sample_rate=8000, n_mels=16, max_seconds=1.0)}, label)
        case "table":
            table = TableCodec(name="table", numbers=["age", "size"], categories=["colour"], mean=[3.0, 1.0], std=[1.0, 2.0], values=[COLOURS])
            return Processor({"table": table}, {"number": NumberCodec(name="number", columns=["price"], mean=[10.0], std=[2.0])})
        case "several":
            given = {name: codec for part in ("image", "text", "table") for name, codec in processor(part).inputs.items()}
            return Processor(given, label, optional=["text", "table"])
    users = {"ann": [1, 2, 3], "7": [4, 5, 6, 7]}
    catalogue = Catalogue(items=ITEMS, titles=[f"Title {item}" for item in ITEMS], popular=[5, 1, 2, 3, 4], users=users)
    return Processor(
        {"history": HistoryCodec(name="history", catalogue=catalogue, max_length=6)},
        {"item": ItemCodec(name="item", catalogue=catalogue, history="history", max_length=6)},
    )


def config(kind: str, **changes: Any) -> RunConfig:
    """A run's config that fits ``processor(kind)``."""
    encoders: dict[str, dict[str, Any]] = {
        "image": {"name": "cnn", "widths": [8, 8], "blocks": [1, 1]},
        "text": {"name": "transformer", "dim": 16, "depth": 1, "heads": 2},
        "audio": {"name": "audio_cnn", "widths": [8, 8], "blocks": [1, 1]},
        "table": {"name": "table", "dims": [8]},
        "history": {"name": "transformer", "dim": 16, "depth": 1, "heads": 2, "attention": "causal"},
    }
    encoders["several"] = {"name": "fusion", "dim": 8, "encoders": {name: encoders[name] for name in ("image", "text", "table")}}
    heads = {"table": "regression", "history": "next_item"}
    data: dict[str, Any] = {"name": "digits", "batch_size": 16, "augment": {}}
    tree: dict[str, Any] = {
        "name": f"tiny_{kind}",
        "data": data,
        "model": {"encoder": encoders[kind], "decoder": {"name": "none"}, "head": {"name": heads.get(kind, "classification")}},
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "constant"},
    }
    return RunConfig.from_dict(tree | changes)


def make_bundle(kind: str, folder: Path, *, metrics: dict[str, float] | None = None) -> Path:
    """An untrained model's bundle, the same one each time."""
    torch.manual_seed(3)
    codecs, settings = processor(kind), config(kind)
    model = build_model(settings, codecs.spec)
    for parameter in model.parameters():  # answers that differ between inputs
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return write_bundle(folder, config=settings, processor=codecs, model=model, metrics=metrics or {"test/accuracy": 0.5}, notes={"source": "made up"})


def raw_inputs(kind: str, folder: Path) -> list[Any]:
    """Five things that a model of this kind answers for."""
    generator = np.random.default_rng(5)
    if kind == "image":
        paths = [folder / f"{number}.png" for number in range(5)]
        for path in paths:
            Image.fromarray(generator.integers(0, 256, (11, 9, 3), dtype=np.uint8)).save(path)
        return [str(path) for path in paths]
    if kind == "text":
        return ["good", "a much longer text than the others, which is cut", "Ünïcode ✓", "x", "two words"]
    if kind == "audio":
        import soundfile

        paths = [folder / f"{number}.wav" for number in range(5)]
        for number, path in enumerate(paths):
            soundfile.write(path, generator.normal(0, 0.1, 1000 + 700 * number), 8000)
        return [str(path) for path in paths]
    if kind == "table":
        return [{"age": 1.0 * number, "size": "2.5", "colour": colour} for number, colour in enumerate(["red", "blue", "green", "red", "blue"])]
    return [{"user": "ann"}, {"user": 7}, {"items": ["film-3"]}, {"items": ["film-1", "film-9", "nowhere"]}, {"items": ["film-12", "film-2"]}]
