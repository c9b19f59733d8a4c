"""A bundle from any checkpoint of a run."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.config import RunConfig
from zoo.errors import CheckpointError, ZooError
from zoo.files import write_whole
from zoo.hub.bundle import CONFIG, WEIGHTS, portable_config, write_bundle
from zoo.hub.source import SOURCE
from zoo.training.logging import LOG_FILE, as_number, read_rows

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.data.processor import Processor
    from zoo.training.store import Store


@dataclass(frozen=True)
class Exported:
    """What was written, and from which step; None where it was a bundle already."""

    folder: Path
    step: int | None
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

    refuse_other_content(to)
    place = str(store or run_dir)
    if not (run_dir / "config.yaml").is_file():
        raise CheckpointError(f"{place}: is no run's directory (it has no config.yaml)")
    config = RunConfig.load(run_dir / "config.yaml")
    found = find_checkpoint(run_dir, checkpoint, store)
    processor, notes = _processor(run_dir, place)
    model = build_model(config, processor.spec, fetch=False)
    load_strictly(model.state_dict(), published_weights(found), found.place)
    metrics, notes = metrics_at(run_dir, found.step), notes | {"checkpoint": f"step {found.step}"}
    model = model.to(torch.device("cpu"))
    tables = tables_of(run_dir / "bundle", model.state_dict())
    write_bundle(to, config=config, processor=processor, model=model, metrics=metrics, notes=notes, tables=tables, run=run_dir)
    _leave_the_data_folder(to)
    return Exported(to, found.step, metrics, model.num_parameters())


def export_bundle(model: str, to: Path) -> Exported:
    """Copy a bundle, after every check that loading it makes.

    Args:
        model: a bundle, a name or an address.
        to: the copy's folder; an older bundle there is replaced, anything else is left alone.

    Raises:
        CheckpointError: where the bundle is incomplete, damaged or hostile.
    """
    from zoo.hub.bundle import load_bundle
    from zoo.hub.files import published
    from zoo.hub.resolve import resolve

    refuse_other_content(to)
    loaded = load_bundle(resolve(model))
    source = loaded.bundle.path
    if to.resolve().is_relative_to(source.resolve()):
        raise ZooError(f"{to}: lies in the bundle that is to be copied, {source}; nothing was written\n  way out: another folder for --to")
    with published(to) as fresh:
        # Contents alone: a cache keeps its files read-only, and what is in a user's folder is the user's to change.
        shutil.copytree(source, fresh / "copy", copy_function=shutil.copyfile, ignore=shutil.ignore_patterns(SOURCE))
        for path in sorted((fresh / "copy").iterdir()):
            path.rename(fresh / path.name)
        (fresh / "copy").rmdir()
        _leave_the_data_folder(fresh)
    return Exported(to, None, loaded.bundle.metrics, loaded.model.num_parameters())


def export_foreign(model: str, to: Path, layout: str, checkpoint: str | None = None) -> None:
    """Write a model in another library's layout, whole or not at all.

    Args:
        model: a bundle, a run's directory, a name or an address.
        to: a new folder.
        layout: name of the converter.
        checkpoint: of a run: best, last, or a step's number; None is best.

    Raises:
        CheckpointError: where the layout has no place for the model; says every difference.
        ZooError: where a checkpoint is asked for of what has none.
    """
    from zoo.hub.bundle import load_bundle
    from zoo.hub.files import published
    from zoo.hub.resolve import resolve
    from zoo.registry import CONVERTERS

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ZooError(f"{to}: exists already; nothing was written\n  way out: another folder for --to")
    node = CONVERTERS.check_node({"name": layout} | _options(layout), "--as")
    source = resolve(model)
    run = has_checkpoints(source)
    if not run:
        refuse_checkpoint(model, checkpoint)
    with tempfile.TemporaryDirectory(prefix="zoo-") as scratch:
        if run:
            source = export_run(source, Path(scratch) / source.name, checkpoint=checkpoint or "best").folder
        loaded = load_bundle(source)
        with published(to) as fresh:
            CONVERTERS.build(node, "--as").write(loaded, fresh)


def has_checkpoints(folder: Path) -> bool:
    """Whether it is a run's directory whose checkpoints are there, or in a store that its config names."""
    from zoo.training.store import store_of

    return (folder / "checkpoints").is_dir() or (not (folder / WEIGHTS).is_file() and store_of(folder) is not None)


def refuse_checkpoint(model: str, checkpoint: str | None) -> None:
    """Raises:
    ZooError: where one is asked for; for models that have none.
    """
    if checkpoint is not None:
        raise ZooError(
            f"--checkpoint {checkpoint}: {model} has no checkpoints, only the weights that were published, so that these would be written in place of them\n"
            "  way out 1: leave --checkpoint out\n  way out 2: the directory of the run that it came from"
        )


def refuse_other_content(to: Path) -> None:
    """Raises:
    ZooError: where a folder holds anything but a bundle.
    """
    if to.exists() and not (to / CONFIG).is_file() and (not to.is_dir() or any(to.iterdir())):
        raise ZooError(f"{to}: exists and is no bundle; nothing was written\n  way out: another folder for --to")


def _leave_the_data_folder(bundle: Path) -> None:
    """What lies in ``$ZOO_DATA`` is named as zoo's presets name it, so that it is found wherever that is; a path elsewhere is the user's own, and kept."""
    text, _ = portable_config(bundle, outside=False)
    if text is not None:
        write_whole(bundle / CONFIG, text)


def _options(layout: str) -> dict[str, Any]:
    """Stand-ins for what a converter needs to read, and not to write."""
    from zoo.registry import CONVERTERS

    return {option.name: "" for option in CONVERTERS.schema(layout).options if option.required}


def metrics_at(run_dir: Path, step: int) -> dict[str, float]:
    """What was measured after that step."""
    rows = [row for row in read_rows(run_dir / LOG_FILE) if row["step"] == step]
    merged: Mapping[str, Any] = {name: as_number(value) for row in rows for name, value in row.items()}
    return {name: float(value) for name, value in merged.items() if name.startswith(("validation/", "test/"))}


def tables_of(bundle: Path, state: "Mapping[str, Tensor]") -> dict[str, Any]:
    """A run's tables (confusion ...), which only its bundle keeps; none for other weights than that bundle's, of which they are not."""
    import torch

    from zoo.hub.bundle import open_bundle
    from zoo.training.tensors import read_tensors

    if not (bundle / WEIGHTS).is_file():
        return {}
    tables = open_bundle(bundle).tables
    measured = read_tensors(bundle / WEIGHTS) if tables else {}
    same = measured.keys() == state.keys() and all(torch.equal(value, state[name].to(value.dtype)) for name, value in measured.items())
    return tables if same else {}


def _processor(run_dir: Path, place: str) -> "tuple[Processor, dict[str, str]]":
    """The run's own, from before its first step, and the notes on its data."""
    from zoo.data.agreement import kept_facts
    from zoo.data.processor import Processor

    for folder in (run_dir / "processor", run_dir / "bundle" / "processor"):
        if (folder / "processor.json").is_file():
            return Processor.load(folder), kept_facts(folder)["notes"]
    raise CheckpointError(f"{place}: keeps no processor/, without which no input can be prepared as in its training\n  way out: zoo train resume={place}")
