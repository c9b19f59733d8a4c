"""A bundle from any checkpoint of a run."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.config import RunConfig
from zoo.errors import CheckpointError, ZooError
from zoo.hub.bundle import CONFIG, write_bundle
from zoo.training.logging import LOG_FILE, as_number, read_rows

if TYPE_CHECKING:
    from zoo.data.processor import Processor
    from zoo.training.store import Store


@dataclass(frozen=True)
class Exported:
    """What was written, and from which step."""

    folder: Path
    step: int
    metrics: dict[str, float]
    parameters: int


def export_run(run_dir: Path, to: Path, *, checkpoint: str = "best", store: "Store | None" = None) -> Exported:
    """Write a bundle from a checkpoint.

    Args:
        run_dir: of the run.
        to: the bundle's folder; an older bundle there is replaced, anything else is left alone.
        checkpoint: best, last, or a step's number.
        store: that has the run's checkpoints; None looks where the run's config says.

    Raises:
        CheckpointError: where the run has no such checkpoint, or it is damaged.
    """
    import torch

    from zoo.build import build_model
    from zoo.training.published import find_checkpoint, published_weights
    from zoo.training.tensors import load_strictly

    if to.exists() and not (to / CONFIG).is_file() and (not to.is_dir() or any(to.iterdir())):
        raise ZooError(f"{to}: exists and is no bundle; nothing was written\n  way out: another folder for --to")
    place = str(store or run_dir)
    if not (run_dir / "config.yaml").is_file():
        raise CheckpointError(f"{place}: is no run's directory (it has no config.yaml)")
    config = RunConfig.load(run_dir / "config.yaml")
    found = find_checkpoint(run_dir, checkpoint, store)
    processor, notes = _processor(run_dir, place)
    model = build_model(config, processor.spec, fetch=False)
    load_strictly(model.state_dict(), published_weights(found), found.place)
    metrics = metrics_at(run_dir, found.step)
    write_bundle(
        to, config=config, processor=processor, model=model.to(torch.device("cpu")), metrics=metrics, notes=notes | {"checkpoint": f"step {found.step}"}
    )
    return Exported(to, found.step, metrics, model.num_parameters())


def export_foreign(model: str, to: Path, layout: str, checkpoint: str = "best") -> None:
    """Write a model in another library's layout, whole or not at all.

    Args:
        model: a bundle, a run's directory, a name or an address.
        to: a new folder.
        layout: name of the converter.
        checkpoint: of a run: best, last, or a step's number.

    Raises:
        CheckpointError: where the layout has no place for the model; says every difference.
    """
    from zoo.hub.bundle import load_bundle
    from zoo.hub.files import published
    from zoo.hub.resolve import resolve
    from zoo.registry import CONVERTERS

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ZooError(f"{to}: exists already; nothing was written\n  way out: another folder for --to")
    node = CONVERTERS.check_node({"name": layout} | _options(layout), "--as")
    source = resolve(model)
    with tempfile.TemporaryDirectory(prefix="zoo-") as scratch:
        if (source / "checkpoints").is_dir():
            source = export_run(source, Path(scratch) / source.name, checkpoint=checkpoint).folder
        loaded = load_bundle(source)
        with published(to) as fresh:
            CONVERTERS.build(node, "--as").write(loaded, fresh)


def _options(layout: str) -> dict[str, Any]:
    """Stand-ins for what a converter needs to read, and not to write."""
    from zoo.registry import CONVERTERS

    return {option.name: "" for option in CONVERTERS.schema(layout).options if option.required}


def metrics_at(run_dir: Path, step: int) -> dict[str, float]:
    """What was measured after that step."""
    rows = [row for row in read_rows(run_dir / LOG_FILE) if row["step"] == step]
    merged: Mapping[str, Any] = {name: as_number(value) for row in rows for name, value in row.items()}
    return {name: float(value) for name, value in merged.items() if name.startswith(("validation/", "test/"))}


def _processor(run_dir: Path, place: str) -> "tuple[Processor, dict[str, str]]":
    """The run's own, from before its first step, and the notes on its data."""
    from zoo.data.agreement import kept_facts
    from zoo.data.processor import Processor

    for folder in (run_dir / "processor", run_dir / "bundle" / "processor"):
        if (folder / "processor.json").is_file():
            return Processor.load(folder), kept_facts(folder)["notes"]
    raise CheckpointError(f"{place}: keeps no processor/, without which no input can be prepared as in its training\n  way out: zoo train resume={place}")
