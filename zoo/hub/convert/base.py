"""What converters have in common: finding the one for a checkpoint, building zoo's model around the tensors, and the bundle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from zoo.errors import CheckpointError, ZooError
from zoo.hub.bundle import REPORT
from zoo.hub.convert.snapshot import Snapshot, plain_config
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.data.processor import Processor
    from zoo.hub.bundle import LoadedBundle


@dataclass(frozen=True)
class Foreign:
    """A checkpoint as zoo's parts.

    Args:
        processor: from raw inputs to tensors, as the original does it.
        model: nodes of encoder, decoder and head.
        state: every tensor of the model.
        report: what became of each foreign tensor: the name of zoo's, or why it is not used.
    """

    processor: "Processor"
    model: dict[str, Any]
    state: dict[str, Tensor]
    report: dict[str, str]


class Converter(Protocol):
    """A format. Registered by ``@CONVERTERS.register``; its options are those of a record."""

    model_types: ClassVar[tuple[str, ...]]
    """What ``config.json`` says under ``model_type``."""

    def read(self, snapshot: Snapshot) -> Foreign:
        """Raises:
        CheckpointError: where config and tensors are not those of the architecture, or of a variant that zoo does not have.
        """

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        """The model in the foreign layout, so that the original's library loads it with no missing and no unexpected tensor.

        Raises:
            CheckpointError: where the model has parts that the layout has no place for.
        """


def converter_of(files: Mapping[str, Path]) -> str:
    """Who reads a checkpoint, by its config.

    Args:
        files: its files by name.

    Raises:
        CheckpointError: where nobody does.
    """
    if "config.json" not in files:
        raise CheckpointError(f"neither a bundle of zoo (config.yaml, model.safetensors) nor a checkpoint with a config.json: {', '.join(sorted(files)[:12])}")
    config = plain_config(files["config.json"], "config.json")
    told = config.get("model_type") or ("timm" if "pretrained_cfg" in config else None)
    known: dict[str, str] = {}
    for name in CONVERTERS.names():
        known |= dict.fromkeys(CONVERTERS.load(name).model_types, name)  # type: ignore[attr-defined]
    if not isinstance(told, str) or told not in known:
        raise CheckpointError(
            f"config.json: model_type {told!r} is none that zoo reads: {', '.join(sorted(known))}\n"
            "  way out: `zoo list converter`; CONTRIBUTING.md says how to add one"
        )
    return known[told]


def other_options(encoder: Mapping[str, Any], needed: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What is wrong with an encoder's options for a layout, and the overrides that a training would need."""
    other = {key: value for key, value in needed.items() if encoder[key] != value}
    return [f"model.encoder.{key} is {encoder[key]}, where {value} is needed" for key, value in other.items()], [
        f"model.encoder.{key}={value}" for key, value in other.items()
    ]


def no_place(layout: str, wrong: Sequence[str], overrides: Sequence[str] = ()) -> CheckpointError:
    """That a model cannot be written in a layout: every difference, and what leads out.

    Args:
        layout: as its papers call the architecture.
        wrong: the differences; weights that were trained with one of them would give other numbers there.
        overrides: with which a training gives a model that can be; none where it is another architecture.
    """
    ways = [f"train it with {' '.join(overrides)}"] if overrides else []
    ways.append("keep it as a bundle of zoo's: `zoo export MODEL --to DIR` without --as")
    numbered = [f"way out{f' {number}' if len(ways) > 1 else ''}: {way}" for number, way in enumerate(ways, 1)]
    return CheckpointError(f"the model has no place in {layout}'s layout:\n  " + "\n  ".join([*wrong, *numbered]))


def convert(folder: Path, bundle: Path, read_by: str, options: Mapping[str, Any], *, name: str, source: str) -> None:
    """Write a bundle of a foreign checkpoint.

    Args:
        folder: with the foreign files.
        bundle: an empty folder.
        read_by: name of the converter.
        options: of it.
        name: that the model was asked for by.
        source: where the files came from.

    Raises:
        CheckpointError: where the checkpoint is none that the converter reads; nothing else is told of it then.
    """
    from zoo.hub.bundle import write_converted

    node = CONVERTERS.check_node({"name": read_by, **options}, "options")
    converter: Converter = CONVERTERS.build(node, "options")
    try:
        foreign = converter.read(Snapshot(folder, name))
        nodes, parameters = _fitting(foreign, name)
    except (ZooError, ImportError):  # a library that is not installed is no fault of the checkpoint's
        raise
    except Exception as error:  # a file made elsewhere may say anything, and whatever breaks over it is told as one message
        raise CheckpointError(
            f"{name}: its config and tensors cannot be read as {read_by}: {type(error).__name__}: {error}\n"
            "  way out: compare its config with that of a checkpoint that its own library loads; where that loads this one too, zoo does not have the variant"
        ) from error
    write_converted(bundle, name=name, source=source, nodes=nodes, foreign=foreign, parameters=parameters)
    (bundle / REPORT).write_text(json.dumps({"read_by": read_by, "source": source, "tensors": foreign.report}, indent=1) + "\n", encoding="utf-8")


def _fitting(foreign: Foreign, name: str) -> tuple[dict[str, Any], int]:
    """The checked nodes of a model that takes every tensor, and how many parameters it has."""
    import torch

    from zoo.build import Nodes, build_model
    from zoo.hub.bundle import PARTS
    from zoo.hub.weights import TensorEntry, compare
    from zoo.settings import ModelSettings

    nodes = {part: registry.check_node(foreign.model.get(part, {"name": "none"}), f"model.{part}") for part, registry in PARTS.items()}
    with torch.device("meta"):
        model = build_model(Nodes(**nodes, model=ModelSettings()), foreign.processor.spec, fetch=False)
        found = {key: TensorEntry(_dtype(tensor), tuple(tensor.shape)) for key, tensor in foreign.state.items()}
        compare(model.state_dict(), found, Path(name))
    return nodes, model.num_parameters()


def _dtype(tensor: Tensor) -> str:
    return "F32" if tensor.is_floating_point() else "I64"
