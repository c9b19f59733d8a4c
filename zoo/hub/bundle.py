"""A bundle: a model that is ready to use, as a folder of plain data.

    config.yaml          format, data's spec, and the run's whole config: names and values only
    model.safetensors    every parameter and buffer
    processor/           how raw inputs become tensors, and tensors labels: tokenizer, classes, normalisation
    metrics.json         figures at the end of training, and how they were computed
    README.md            model card, fit for the Hugging Face Hub

Reading trusts nothing in it: no code is named or run, no file outside the folder is opened, every tensor has to fit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, ZooError
from zoo.hub.files import check_folder, published, read_plain_json, read_plain_yaml, to_yaml
from zoo.inference.inputs import example
from zoo.registry import DECODERS, ENCODERS, HEADS, TOKENIZERS, Registry
from zoo.settings import ModelSettings
from zoo.specs import DataSpec, InputSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from zoo.config import RunConfig
    from zoo.data.processor import Processor
    from zoo.hub.convert import Foreign
    from zoo.model import Model

FORMAT = 1
CONFIG, WEIGHTS, PROCESSOR, METRICS, CARD = "config.yaml", "model.safetensors", "processor/processor.json", "metrics.json", "README.md"
FILES = (CONFIG, WEIGHTS, PROCESSOR, METRICS, CARD)
REPORT = "conversion.json"
"""Of a converted bundle: where it came from, and what became of every foreign tensor."""
PARTS: dict[str, Registry] = {"encoder": ENCODERS, "decoder": DECODERS, "head": HEADS}
_OWN_KEYS = ("format", "zoo", "plugins", "spec")
_NOT_PUBLISHED: dict[str, Any] = {"run_dir": None, "resume": None, "rerun": None, "allow": [], "init": None, "init_skip": [], "init_rename": {}, "init_fit": []}


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: checked, but no tensor read yet.

    Args:
        path: the folder.
        config: the run's config as a tree (``RunConfig.from_dict``).
        spec: of the data.
        metrics: figures at the end of training: ``test/accuracy`` ...
        tables: what is not one number: ``test/confusion`` ...
        plugins: files of the user's own that its components came from.
    """

    path: Path
    config: dict[str, Any]
    spec: DataSpec
    metrics: dict[str, float]
    tables: dict[str, Any]
    plugins: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.path.name)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the model takes."""
        try:
            return inputs_of(self.config["model"], self.spec.inputs)
        except ZooError as error:
            raise CheckpointError(f"{self.path / CONFIG}: {error}") from error

    @property
    def input(self) -> InputSpec:
        """The only input that the model takes."""
        if len(self.inputs) != 1:
            raise ZooError(f"the model takes several inputs, {', '.join(spec.name for spec in self.inputs)}, and one was asked for")
        return self.inputs[0]

    @property
    def example(self) -> str:
        """What ``zoo predict BUNDLE`` takes next, as people would type it."""
        return example(self.inputs)


def inputs_of(model: Mapping[str, Any], inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """The inputs that a model's encoder takes, or the encoders that it is made of; by the rules of ``zoo.build``, without building them."""
    found: dict[str, InputSpec] = {}

    def visit(node: Mapping[str, Any], wanted: str | None) -> None:
        schema = ENCODERS.schema(node["name"])
        takes = {name for wired in schema.wired for name in wired.specs}
        if takes:
            fitting = [
                spec for spec in inputs if not spec.for_decoder and wanted in (None, spec.name) and any(base.__name__ in takes for base in type(spec).__mro__)
            ]
            if len(fitting) != 1:
                raise ZooError(f"encoder {schema.name!r} takes {' or '.join(sorted(takes))}, of which the data has {len(fitting)}")
            found[fitting[0].name] = fitting[0]
        for option in schema.options:
            if option.type.holds("encoder") and isinstance(value := node.get(option.name), Mapping):
                for label, nested in {option.name: value}.items() if "name" in value else value.items():
                    visit(nested, label if label in {spec.name for spec in inputs} else None)

    visit(model["encoder"], model.get("input"))
    return tuple(found.values())


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle with its parts in memory; the model is in evaluation mode."""

    bundle: Bundle
    model: "Model"
    processor: "Processor"


def write_bundle(
    folder: Path,
    *,
    config: "RunConfig",
    processor: "Processor",
    model: "Model",
    metrics: Mapping[str, float],
    notes: Mapping[str, str] | None = None,
    tables: Mapping[str, Any] | None = None,
    state: "Mapping[str, Tensor] | None" = None,
    run: Path | None = None,
) -> Path:
    """Publish a bundle, whole or not at all; an older one of the same name is replaced.

    Args:
        folder: where it will be.
        config: of the run.
        processor: codecs of the opened data.
        model: built from the config.
        metrics: final figures by name.
        notes: facts about the data, for the card.
        tables: confusion matrices and the like, by name.
        state: weights to publish in place of the model's own (EMA, gathered shards, a checkpoint's).
        run: directory of the run; None is the one that the bundle's folder lies in, if that is a run's.
    """
    from zoo.hub.card import model_card
    from zoo.hub.lineage import LINEAGE, as_data, lineage

    tree = config.to_dict() | _NOT_PUBLISHED | {"logger": {}, "callback": {}}
    tree["trainer"] = {**tree["trainer"], "checkpoint_to": None}  # an address of the owner's
    head: Any = model.head
    figures = {"metrics": dict(metrics), "tables": dict(tables or {}), "protocol": str(getattr(head, "protocol", "")), "parameters": model.num_parameters()}
    bases = lineage(config.to_dict(), run or Path(folder).parent)
    figures |= {LINEAGE: as_data(bases)} if bases else {}
    with published(Path(folder)) as fresh:
        card = model_card(tree, processor.spec, figures, dict(notes or {}), bases=bases)
        _write(fresh, tree, processor, figures, model.state_dict() if state is None else state, card, _plugins(config))
    return Path(folder)


def write_converted(folder: Path, *, name: str, source: str, nodes: Mapping[str, Any], foreign: "Foreign", parameters: int) -> None:
    """A bundle of what another library trained, into an empty folder: no run's config, and no figures that zoo has not measured.

    Args:
        folder: empty.
        name: of the model.
        source: where its files came from.
        nodes: checked, of encoder, decoder and head.
        foreign: the parts.
        parameters: how many there are.
    """
    from zoo.hub.card import converted_card

    tree = {"name": name, "data": {}, "model": dict(nodes)}
    figures = {"metrics": {}, "tables": {}, "protocol": "", "parameters": parameters}
    _write(folder, tree, foreign.processor, figures, foreign.state, converted_card(tree, foreign.processor.spec, figures, {"source": source}), [])


def _write(
    fresh: Path,
    tree: Mapping[str, Any],
    processor: "Processor",
    figures: Mapping[str, Any],
    state: "Mapping[str, Tensor]",
    card: str,
    plugins: list[str],
) -> None:
    from zoo.hub.weights import save_weights

    own = {"format": FORMAT, "zoo": _version(), "plugins": plugins, "spec": processor.spec.to_dict()}
    (fresh / CONFIG).write_text(to_yaml(own | dict(tree)), encoding="utf-8")
    save_weights(fresh / WEIGHTS, state)
    (fresh / "processor").mkdir()
    processor.save(fresh / "processor")
    (fresh / METRICS).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    (fresh / CARD).write_text(card, encoding="utf-8")


def open_bundle(path: str | Path) -> Bundle:
    """Check a bundle's folder, config and metrics. Imports no torch and reads no tensor. A run's directory stands for its bundle.

    Raises:
        CheckpointError: for whatever is missing, damaged, hostile or from another format; for components that are not registered.
    """
    folder = bundle_folder(Path(path))
    check_folder(folder, FILES)
    tree = read_plain_yaml(folder / CONFIG)
    if tree.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG}: format {tree.get('format')!r}, written by zoo {tree.get('zoo')!r}; this zoo ({_version()}) reads format {FORMAT}\n"
            "  way out: install the zoo that wrote it, or export the run again"
        )
    plugins = tree.get("plugins") or []
    if not isinstance(plugins, list) or any(not isinstance(name, str) for name in plugins):
        raise CheckpointError(f"{folder / CONFIG}: plugins: a list of file names is needed, not {plugins!r}")
    _check_nodes(tree, folder, plugins)
    try:
        spec = DataSpec.from_dict(tree["spec"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: spec: {type(error).__name__}: {error}") from error
    figures = read_plain_json(folder / METRICS)
    metrics, tables = figures.get("metrics"), figures.get("tables")
    if not isinstance(metrics, dict) or not isinstance(tables, dict) or any(not isinstance(value, int | float) for value in metrics.values()):
        raise CheckpointError(f"{folder / METRICS}: metrics has to be a mapping of names to numbers, and tables a mapping")
    return Bundle(folder, {key: value for key, value in tree.items() if key not in _OWN_KEYS}, spec, metrics, tables, tuple(plugins))


def load_bundle(path: str | Path, device: "str | torch.device" = "cpu") -> LoadedBundle:
    """Open a bundle and load it, strictly.

    Raises:
        CheckpointError: as ``open_bundle``, and where a tensor is missing, unexpected or of another shape (R6).
    """
    import torch

    from zoo.data.processor import Processor
    from zoo.hub.weights import compare, load_weights, read_header

    bundle = open_bundle(path)
    weights = bundle.path / WEIGHTS
    header = read_header(weights)
    processor = Processor.load(bundle.path / "processor")
    if processor.spec != bundle.spec:
        raise CheckpointError(f"{bundle.path}: config.yaml and processor/ describe different data: {_difference(bundle.spec, processor.spec)}")
    with torch.device("meta"):  # sizes are compared before any memory is asked for
        compare(_build(bundle).state_dict(), header, weights)
    model = _build(bundle)
    load_weights(model, weights)
    return LoadedBundle(bundle, model.to(device).eval(), processor)


def portable_config(folder: Path, *, outside: bool) -> tuple[str | None, dict[str, str]]:
    """A bundle's config.yaml as it may leave this machine, or None where it names no path of it; and which paths became what.

    Args:
        folder: of the bundle.
        outside: whether paths that lie outside ``$ZOO_DATA`` are cut to their last names too.
    """
    from zoo.hub.portable import portable

    tree, told = portable(read_plain_yaml(folder / CONFIG), outside=outside)
    return (to_yaml(tree) if told else None), told


def bundle_folder(path: Path) -> Path:
    """The bundle that a path means: itself, or the one of a run's directory.

    Raises:
        CheckpointError: where the run has none yet.
    """
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return path
    if (path / "bundle").is_dir():
        return path / "bundle"
    if (path / "checkpoints").is_dir() or (path / "log.jsonl").is_file():
        raise CheckpointError(
            f"{path}: the run has written no bundle yet\n  way out 1: finish it: zoo train resume={path}\n"
            f"  way out 2: make one from a checkpoint: zoo export {path} --to DIR"
        )
    return path


def _build(bundle: Bundle) -> "Model":
    from zoo.build import Nodes, build_model

    model = bundle.config["model"]
    nodes = {part: registry.check_node(model[part], f"model.{part}") for part, registry in PARTS.items()}
    try:
        return build_model(Nodes(**nodes, model=ModelSettings(input=model.get("input"), target=model.get("target"))), bundle.spec, fetch=False)
    except ZooError as error:
        raise CheckpointError(f"{bundle.path / CONFIG}: {error}") from error
    except Exception as error:
        raise CheckpointError(f"{bundle.path / CONFIG}: the model cannot be built: {type(error).__name__}: {error}") from error


def _check_nodes(tree: Mapping[str, Any], folder: Path, plugins: list[str]) -> None:
    model = tree.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{folder / CONFIG}: model: encoder, decoder and head are needed, not {model!r}")
    if strange := sorted(set(model) - {*PARTS, "input", "target", "lora"}):
        raise CheckpointError(f"{folder / CONFIG}: model.{strange[0]}: unknown; a model has {', '.join(PARTS)}, input and target")
    for key in ("input", "target"):
        if not isinstance(model.get(key), str | None):
            raise CheckpointError(f"{folder / CONFIG}: model.{key}: a name is needed, not {model[key]!r}")
    data = tree.get("data")
    tokenizer = data.get("tokenizer") if isinstance(data, dict) else None
    parts = [(part, registry, model.get(part)) for part, registry in PARTS.items()]
    parts += [("tokenizer", TOKENIZERS, tokenizer)] if isinstance(tokenizer, dict) else []
    for part, registry, node in parts:
        name = node.get("name") if isinstance(node, dict) else None
        if not isinstance(name, str):
            raise CheckpointError(f"{folder / CONFIG}: model.{part}: a mapping with the name of a registered {part} is needed, not {node!r}")
        if name not in registry.names():
            files = " ".join(f"--import {file}" for file in plugins) or "--import path/to/file.py"
            raise CheckpointError(
                f"{folder}: needs the {part} {name!r}, which is not part of zoo: the bundle needs a plugin\n"
                f"  way out: if you have its source and trust it: zoo predict {files} {folder} ... (in Python: import it before zoo.load)"
            )
        try:
            registry.check_node(node, f"model.{part}")
        except ZooError as error:
            raise CheckpointError(f"{folder / CONFIG}: {error}") from error


def _plugins(config: "RunConfig") -> list[str]:
    """File names of components that are not zoo's own."""
    nodes = {"encoder": config.encoder, "decoder": config.decoder, "head": config.head}
    schemas = [PARTS[part].schema(node["name"]) for part, node in nodes.items()]
    return sorted({Path(schema.origin.rsplit(":", 1)[0]).name for schema in schemas if not schema.module.startswith("zoo.")})


def _difference(first: DataSpec, second: DataSpec) -> str:
    left, right = first.to_dict(), second.to_dict()
    return "; ".join(f"{group}: {left[group]} against {right[group]}" for group in left if left[group] != right[group])[:2000]


def _version() -> str:
    from zoo import __version__

    return __version__
