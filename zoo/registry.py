"""Components by name: one ``Registry`` for each kind. Imports no torch.

    @ENCODERS.register("my_encoder")
    class MyEncoder(nn.Module):
        def __init__(self, *, image: ImageInput, width: int = 64) -> None: ...

zoo's own components are known from their sources (``zoo.index``) and imported when they are built. Plugins register when they are
imported: by ``--import`` on the command line, or through the entry point group ``zoo.components``.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from zoo.errors import ConfigError, RegistryError, did_you_mean
from zoo.index import read_index
from zoo.schema import Schema, check_value, schema_of, to_python

C = TypeVar("C", bound=Callable[..., Any])

ENTRY_POINTS = "zoo.components"
plugin_errors: dict[str, str] = {}
"""Plugins that could not be imported, with the real error; shown with every unknown name."""


class Registry:
    """The components of one kind.

    Args:
        kind: "encoder", "head" ...
        group: its Hydra config group.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._live: dict[str, tuple[Callable[..., Any], Schema]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator for a class or function whose keyword-only, typed signature is its config schema.

        Raises:
            RegistryError: when the name is taken by another object, or the signature cannot be a schema.
        """
        if not isinstance(name, str) or not name.replace("_", "a").isalnum():
            raise RegistryError(f"{self.kind} name {name!r}: use letters, digits and underscores, since it is typed on command lines")

        def decorate(component: C) -> C:
            schema = schema_of(component, kind=self.kind, name=name)
            taken = self._live[name][1] if name in self._live else _builtin(self.kind).get(name)
            if taken and (taken.module, taken.qualname) != (schema.module, schema.qualname):
                raise RegistryError(
                    f"{self.kind} {name!r} is registered twice: by {taken.qualname} in {taken.origin} and by {schema.qualname} in {schema.origin}; rename one"
                )
            self._live[name] = component, schema
            return component

        return decorate

    def names(self, pattern: str = "*") -> list[str]:
        """Sorted names that match a shell wildcard."""
        load_plugins()
        return sorted(name for name in {*_builtin(self.kind), *self._live} if fnmatchcase(name, pattern))

    def schema(self, name: str) -> Schema:
        """Options, docs and origin; imports nothing of zoo's own.

        Raises:
            RegistryError: for an unknown name, with near names, the full list and the plugins that failed.
        """
        if name in self._live:
            return self._live[name][1]
        if name in (builtin := _builtin(self.kind)):
            return builtin[name]
        load_plugins()
        if name in self._live:
            return self._live[name][1]
        raise RegistryError(self._unknown(name))

    def load(self, name: str) -> Callable[..., Any]:
        """The class or function itself; imports its module."""
        if name not in self._live:
            importlib.import_module(self.schema(name).module)
        return self._live[name][0]

    def check_node(self, node: Any, path: str) -> dict[str, Any]:
        """A config node with every option present and of its type.

        Raises:
            ConfigError: with the dotted path, the value, near names and the way out.
        """
        node, schema = self._node_schema(node, path)
        known = {option.name for option in schema.options}
        for key in node:
            if key not in known:
                raise ConfigError(
                    f"{path}.{key}",
                    f"{self.kind} {schema.name!r} has no option {key!r}",
                    did_you_mean(str(key), known),
                    f"`zoo show {schema.name}` explains them all",
                )
        checked: dict[str, Any] = {"name": schema.name}
        for option in schema.options:
            value = node.get(option.name, option.default)
            if option.required and (option.name not in node or value == "???"):
                raise ConfigError(
                    f"{path}.{option.name}", f"{self.kind} {schema.name!r} needs this option: {option.doc}", f"{path}.{option.name}=... ({option.type})"
                )
            checked[option.name] = check_value(value, option.type, f"{path}.{option.name}")
        return checked

    def build(self, node: Mapping[str, Any], path: str, **wired: Any) -> Any:
        """Construct a checked node. Parameters typed as specs come from ``wired``; nested components are built first.

        Raises:
            ConfigError: where the constructor refuses its values.
        """
        schema = self.schema(node["name"])
        component = self.load(node["name"])
        hints = typing.get_type_hints(component.__init__ if inspect.isclass(component) else component)
        options = {option.name: _build_nested(node[option.name], option.type, f"{path}.{option.name}") for option in schema.options}
        try:
            return component(**{name: to_python(value, hints[name]) for name, value in options.items()}, **wired)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(path, f"{self.kind} {schema.name!r} cannot be built: {error}", f"`zoo show {schema.name}` explains its options") from error

    def _node_schema(self, node: Any, path: str) -> tuple[dict[str, Any], Schema]:
        if isinstance(node, str):
            raise ConfigError(path, f"{node!r} is a name where the node of a {self.kind} is needed", f"choose it as a group, with a slash: {self.group}={node}")
        if not isinstance(node, Mapping):
            raise ConfigError(path, f"{node!r} is no node of a {self.kind}", f"choose one: {self.group}=NAME, known: {', '.join(self.names())}")
        name = node.get("name")
        if not isinstance(name, str) or name == "???":
            raise ConfigError(f"{path}.name", f"{name!r} names no {self.kind}", f"choose one: {self.group}=NAME, known: {', '.join(self.names())}")
        try:
            return {key: value for key, value in node.items() if key != "name"}, self.schema(name)
        except RegistryError as error:
            raise ConfigError(f"{path}.name", str(error)) from None

    def _unknown(self, name: str) -> str:
        lines = [f"no {self.kind} is named {name!r}; {did_you_mean(name, self.names())}", f"  all: {', '.join(self.names())}"]
        lines += [f"  plugin {plugin} could not be imported: {reason}" for plugin, reason in plugin_errors.items()]
        return "\n".join([*lines, "  a component of your own: --import path/to/file.py"])


def _build_nested(value: Any, kind: Any, path: str) -> Any:
    if value is None:
        return None
    if kind.form == "component":
        return registry(kind.name).build(value, path)
    if kind.form == "union":
        component = next((arg for arg in kind.args if arg.form == "component"), None)
        return _build_nested(value, component, path) if component else value
    if kind.form == "dict" and kind.args[0].form == "component":
        return {key: _build_nested(entry, kind.args[0], f"{path}.{key}") for key, entry in value.items()}
    return value


@cache
def _index() -> dict[str, dict[str, Schema]]:
    return read_index()


def _builtin(kind: str) -> dict[str, Schema]:
    return _index()[kind]


@cache
def load_plugins() -> None:
    """Import installed plugins once; what fails is kept for messages, since one broken plugin must not break the rest."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the reason is shown with unknown names
            plugin_errors[f"{point.name} ({point.value})"] = f"{type(error).__name__}: {error}"


ENCODERS = Registry("encoder", "model/encoder")
DECODERS = Registry("decoder", "model/decoder")
HEADS = Registry("head", "model/head")
DATASETS = Registry("dataset", "data")
TRANSFORMS = Registry("transform", "data/augment")
TOKENIZERS = Registry("tokenizer", "data/tokenizer")
OPTIMIZERS = Registry("optimizer", "optimizer")
SCHEDULES = Registry("schedule", "schedule")
CALLBACKS = Registry("callback", "callback")
LOGGERS = Registry("logger", "logger")

KINDS: dict[str, Registry] = {
    entry.kind: entry for entry in (ENCODERS, DECODERS, HEADS, DATASETS, TRANSFORMS, TOKENIZERS, OPTIMIZERS, SCHEDULES, CALLBACKS, LOGGERS)
}


def registry(kind: str) -> Registry:
    """The registry of a kind.

    Raises:
        RegistryError: for an unknown kind.
    """
    if kind not in KINDS:
        raise RegistryError(f"there is no kind of component named {kind!r}; {did_you_mean(kind, KINDS)}")
    return KINDS[kind]
