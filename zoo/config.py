"""A run's whole config, typed and checked. Plain data in, plain data out; no Hydra, no torch.

The YAML's layout is the one that people type on command lines::

    seed, name, run_dir, ...            RunSettings
    data:      {name, <options>, batch_size, workers, ..., augment: {<label>: {name, ...}}}
    model:     {input, target, encoder: {name, ...}, decoder: {...}, head: {...}, lora: {rank, ...}}
    optimizer: {name, <options>, layer_decay, overrides}
    schedule:  {name, <options>}
    trainer, parallel                   TrainerSettings, ParallelSettings
    logger, callback                    {<label>: {name, <options>}}

Every key is checked against the components' signatures and the settings' fields; none is ignored. ``zoo.compose`` makes such a tree
from config files and overrides.
"""

import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import yaml

from zoo.errors import ConfigError, ManyConfigError, ZooError
from zoo.files import write_whole
from zoo.registry import CALLBACKS, DATASETS, DECODERS, ENCODERS, HEADS, LOGGERS, OPTIMIZERS, SCHEDULES, TRANSFORMS, Registry
from zoo.schema import MISSING, option_values, plain, settings_options, to_python, unknown_keys
from zoo.settings import GroupSettings, LoaderSettings, LoraSettings, ModelSettings, ParallelSettings, RunSettings, TrainerSettings

S = TypeVar("S", GroupSettings, LoaderSettings, LoraSettings, ModelSettings, ParallelSettings, RunSettings, TrainerSettings)
Tree = dict[str, Any]
Origin = Callable[[str], str | None]
"""Dotted path -> the override or file that it came from."""

GROUPS = ("data", "model", "optimizer", "schedule", "trainer", "parallel", "logger", "callback")
MODEL_PARTS: dict[str, Registry] = {"encoder": ENCODERS, "decoder": DECODERS, "head": HEADS}
PER_LABEL = ("transform", "logger", "callback")
"""Kinds of which a config holds several, by label: choosing one adds ``<group>.<name>``."""

_NOT_OF_THE_NUMBERS = ("run_dir", "resume", "rerun", "allow")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run is made from. Nodes are ``{"name": ..., **options}`` with every option present."""

    run: RunSettings
    data: Tree
    loader: LoaderSettings
    augment: dict[str, Tree]
    model: ModelSettings
    encoder: Tree
    decoder: Tree
    head: Tree
    lora: LoraSettings
    optimizer: Tree
    groups: GroupSettings
    schedule: Tree
    trainer: TrainerSettings
    parallel: ParallelSettings
    loggers: dict[str, Tree]
    callbacks: dict[str, Tree]

    def to_dict(self) -> Tree:
        """The nested layout of the YAML."""
        return {
            **_settings_tree(self.run),
            "data": {**self.data, **_settings_tree(self.loader), "augment": self.augment},
            "model": {**_settings_tree(self.model), "encoder": self.encoder, "decoder": self.decoder, "head": self.head, "lora": _settings_tree(self.lora)},
            "optimizer": {**self.optimizer, **_settings_tree(self.groups)},
            "schedule": self.schedule,
            "trainer": _settings_tree(self.trainer),
            "parallel": _settings_tree(self.parallel),
            "logger": self.loggers,
            "callback": self.callbacks,
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], origin: Origin | None = None) -> "RunConfig":
        """Check a whole tree against the static schemas.

        Raises:
            ManyConfigError: every mistake at once, each with its path, the value, where it came from and the ways out.
        """
        return _Checker(origin or (lambda _: None)).config(tree)

    def hash(self) -> str:
        """Of what decides the numbers: equal for a run and its rerun, and on all ranks."""
        tree = {key: value for key, value in self.to_dict().items() if key not in _NOT_OF_THE_NUMBERS}
        tree["trainer"] = {key: value for key, value in tree["trainer"].items() if key != "checkpoint_to"}
        return sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=160)
        return text

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        write_whole(path, self.to_yaml())

    @classmethod
    def load(cls, path: Path) -> "RunConfig":
        """A saved config: values only, nothing in it is resolved or imported.

        Raises:
            ManyConfigError: where it does not fit the components as they are now; every such key is listed.
        """
        return cls.from_dict(read_yaml(path), lambda _: str(path))


def read_yaml(path: Path) -> Any:
    """One YAML document as plain data.

    Raises:
        ZooError: where there is no such file, it is no YAML, or it asks for Python objects.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ZooError(f"{path}: not plain YAML: {' '.join(str(error).split())}") from error


class _Checker:
    """Goes through a tree and collects what is wrong."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.errors: list[ConfigError] = []

    def config(self, tree: Any) -> RunConfig:
        if not isinstance(tree, Mapping):
            raise ConfigError("", f"a config is a mapping of names to values, not {tree!r}", origin=self.origin(""))
        self.plain_data(tree, "")
        if self.errors:  # whatever names code, or is no plain value, is looked at no further
            raise ManyConfigError(self.errors)
        tree = dict(tree)
        tree |= {"init_rename": joined(tree["init_rename"])} if "init_rename" in tree else {}
        run_names = {field.name for field in fields(RunSettings)}
        self.take(unknown_keys(tree, {*run_names, *GROUPS}, "", "the config has no key", elsewhere=paths_of_leaf))
        data, model = self.mapping(tree, "data"), self.mapping(tree, "model")
        loader_names = {field.name for field in fields(LoaderSettings)}
        dataset = {key: value for key, value in data.items() if key not in loader_names and key != "augment"}
        parts = {key: value for key, value in model.items() if key not in MODEL_PARTS and key != "lora"}
        group_names = {field.name for field in fields(GroupSettings)}
        optimizer, groups = split_keys(tree.get("optimizer"), group_names)
        groups |= {"overrides": dotted(groups["overrides"])} if "overrides" in groups else {}
        values: dict[str, Any] = {
            "run": self.settings({key: tree[key] for key in run_names & set(tree)}, RunSettings, ""),
            "data": self.node(dataset, DATASETS, "data", also={*loader_names, "augment"}) if data else {},
            "loader": self.settings({key: data[key] for key in loader_names & set(data)}, LoaderSettings, "data"),
            "augment": self.nodes(data.get("augment"), TRANSFORMS, "data.augment"),
            "model": self.settings(parts, ModelSettings, "model", also={*MODEL_PARTS, "lora"}),
            **{part: self.node(model.get(part), registry, f"model.{part}") for part, registry in MODEL_PARTS.items()},
            "lora": self.settings(self.mapping(model, "lora", "model."), LoraSettings, "model.lora"),
            "optimizer": self.node(optimizer, OPTIMIZERS, "optimizer", also=group_names),
            "groups": self.settings(groups, GroupSettings, "optimizer"),
            "schedule": self.node(tree.get("schedule"), SCHEDULES, "schedule"),
            "trainer": self.settings(self.mapping(tree, "trainer"), TrainerSettings, "trainer"),
            "parallel": self.settings(self.mapping(tree, "parallel"), ParallelSettings, "parallel"),
            "loggers": self.nodes(tree.get("logger"), LOGGERS, "logger"),
            "callbacks": self.nodes(tree.get("callback"), CALLBACKS, "callback"),
        }
        if self.errors:
            raise ManyConfigError(self.errors)
        return RunConfig(**values)

    def fail(self, path: str, problem: str, *ways_out: str) -> None:
        self.take([ConfigError(path, problem, *ways_out)])

    def take(self, errors: list[ConfigError]) -> None:
        """Keep them, each with where its value came from."""
        self.errors += [ConfigError(error.path, error.problem, *error.ways_out, origin=self.origin(error.path)) for error in errors]

    def plain_data(self, value: Any, path: str) -> None:
        """Only names and values: no key that Hydra would run, no object that YAML made, no interpolation left."""
        if isinstance(value, Mapping):
            for key, entry in value.items():
                where = f"{path}.{key}" if path else str(key)
                if not isinstance(key, str):
                    self.fail(where, f"the key {key!r} is no string", "quote it")
                elif key.startswith("_") and key.endswith("_"):
                    self.fail(
                        where,
                        f"{key} asks to run code, which no config of zoo can",
                        "choose a registered component by `name`; one of your own comes with --import path/to/file.py",
                    )
                else:
                    self.plain_data(entry, where)
        elif isinstance(value, list):
            for place, entry in enumerate(value):
                self.plain_data(entry, f"{path}[{place}]")
        elif isinstance(value, str):
            if "${" in value:
                self.fail(path, f"{value!r} is an interpolation, and here stand values only", "write the value")
        elif not isinstance(value, int | float | bool | None):
            self.fail(path, f"{value!r} is a {type(value).__name__}, no plain value", "quote it, if a string is meant")

    def mapping(self, tree: Tree, key: str, parent: str = "") -> Tree:
        value = tree.get(key, {} if key in ("trainer", "parallel", "lora") else None)
        if isinstance(value, Mapping):
            return dict(value)
        key = parent + key
        if isinstance(value, str) and value != MISSING:
            self.fail(
                key,
                f"{value!r} is a name where a mapping is needed",
                f"choose it as a group: {key}={value}; if there is no such option, `zoo list` shows what there is",
            )
        else:
            self.fail(
                key,
                f"{'missing' if value in (None, MISSING) else repr(value)}: a mapping is needed here",
                f"choose one: {key}=NAME; `zoo list` shows what there is",
            )
        return {}

    def settings(self, node: Tree, kind: type[S], path: str, also: Iterable[str] = ()) -> S | None:
        options = settings_options(kind)
        if path:
            self.take(unknown_keys(node, {option.name for option in options} | set(also), path, f"{path} has no key", elsewhere=paths_of_leaf))
        values, errors = option_values(node, options, path)
        self.take(errors)
        if values is None:
            return None
        settings = _typed(kind, values)
        try:
            settings.check()
        except ConfigError as error:
            self.take([error])
        return settings

    def node(self, node: Any, registry: Registry, path: str, also: set[str] = frozenset()) -> Tree | None:  # type: ignore[assignment]
        checked, errors = registry.node_errors(node, path, also=also, elsewhere=paths_of_leaf)
        self.take(errors)
        return checked

    def nodes(self, node: Any, registry: Registry, path: str) -> dict[str, Tree]:
        """Several components by label."""
        if node is None:
            return {}
        if not isinstance(node, Mapping):
            self.fail(
                path,
                f"{node!r} is no mapping of labels to {registry.kind}s",
                f"choose several as a group: {registry.group}=[{', '.join(registry.names()[:2])}]",
                f"{path}=null for none",
            )
            return {}
        found = {}
        for label, entry in node.items():
            if entry is not None:  # `logger.wandb=null` switches one off
                found[label] = self.node(entry, registry, f"{path}.{label}") or {}
        return found


def paths_of_leaf(leaf: str) -> list[str]:
    """Where a key of this name stands among the settings: ``max_steps`` -> ``trainer.max_steps``."""
    places = {
        "": RunSettings,
        "data.": LoaderSettings,
        "model.": ModelSettings,
        "model.lora.": LoraSettings,
        "optimizer.": GroupSettings,
        "trainer.": TrainerSettings,
        "parallel.": ParallelSettings,
    }
    found = [prefix + field.name for prefix, kind in places.items() for field in fields(kind) if field.name == leaf]
    found += [f"model/{leaf}=NAME"] if leaf in MODEL_PARTS else []
    for group, registry in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        found += [f"{group}.{leaf}"] if any(registry.schema(name).option(leaf) for name in registry.names()) else []
    return found


def _settings_tree(settings: Any) -> Tree:
    return {key: plain(value) for key, value in asdict(settings).items()}


def _typed(kind: type[S], values: Tree) -> S:
    """Enum members where the dataclass has them."""
    hints = typing.get_type_hints(kind)
    return kind(**{key: to_python(value, hints[key]) for key, value in values.items()})


def split_keys(node: Any, names: set[str]) -> tuple[Any, Tree]:
    """A node without the keys of these names, and those keys; whatever is no mapping stays as it is."""
    if not isinstance(node, Mapping):
        return node, {}
    return {key: value for key, value in node.items() if key not in names}, {key: value for key, value in node.items() if key in names}


def dotted(overrides: Any) -> Any:
    """``{encoder: {patches: {lr_scale: 2}}}``, which is what the command line makes of ``encoder.patches.lr_scale=2``, by whole prefixes."""
    if not isinstance(overrides, Mapping):
        return overrides
    flat: Tree = {}
    for prefix, options in overrides.items():
        if not isinstance(options, Mapping):
            flat[prefix] = options
            continue
        own = {name: value for name, value in options.items() if not isinstance(value, Mapping)}
        further = {f"{prefix}.{rest}": inner for rest, inner in dotted({name: value for name, value in options.items() if name not in own}).items()}
        for whole, inner in {**({prefix: own} if own or not options else {}), **further}.items():
            known = flat.get(whole)  # given by its whole prefix before, as a saved config has it
            flat[whole] = {**known, **inner} if isinstance(known, Mapping) and isinstance(inner, Mapping) else inner
    return flat


def joined(names: Any) -> Any:
    """``{encoder: {patches: stem}}``, which is what the command line makes of ``encoder.patches=stem``, by whole prefixes: ``{encoder.patches: stem}``."""
    if not isinstance(names, Mapping):
        return names
    flat: Tree = {}
    for prefix, value in names.items():
        flat |= {f"{prefix}.{rest}": inner for rest, inner in joined(value).items()} if isinstance(value, Mapping) else {prefix: value}
    return flat


def encoder_node(name: str, options: Tree) -> Tree:
    """The checked node of an encoder or of one of its presets, with options on top; for use from Python.

    Raises:
        ConfigError, RegistryError: an unknown name or option, or a value of another type.
    """
    from zoo.presets import merged, preset_node

    return ENCODERS.check_node(merged(preset_node("model/encoder", name), options), "model.encoder")
