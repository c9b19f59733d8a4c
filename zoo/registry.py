"""Components by name: one ``Registry`` for each kind. Imports no torch.

    @ENCODERS.register("my_encoder")
    class MyEncoder(nn.Module):
        def __init__(self, *, image: ImageInput, width: int = 64) -> None: ...

zoo's own components are known from their sources (``zoo.index``) and imported when they are built. Plugins register when they are
imported: by ``--import`` on the command line, or through the entry point group ``zoo.components``.
"""

import importlib
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import ConfigError, ManyConfigError, RegistryError, article, did_you_mean
from zoo.index import read_index
from zoo.schema import MISSING, Schema, option_values, schema_of, to_python, unknown_keys

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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
            ConfigError: with the dotted path, the value, near names and the way out; of several mistakes, a ``ManyConfigError``.
        """
        checked, errors = self.node_errors(node, path)
        if checked is None:
            raise errors[0] if len(errors) == 1 else ManyConfigError(errors)
        return checked

    def node_errors(
        self, node: Any, path: str, *, also: Iterable[str] = (), elsewhere: Callable[[str], list[str]] = lambda _: []
    ) -> tuple[dict[str, Any] | None, list[ConfigError]]:
        """A checked node, or None and everything that is wrong with it and the nodes inside.

        Args:
            node: as given.
            path: dotted, of the node.
            also: keys beside the options that somebody else checks.
            elsewhere: where else in the config a key of this name stands.
        """
        if not isinstance(node, Mapping) or not isinstance(node.get("name"), str) or node["name"] == MISSING:
            return None, [self._no_name(node, path)]
        try:
            schema = self.schema(node["name"])
        except RegistryError as error:
            return None, [ConfigError(f"{path}.name", str(error), f"choose it as a group, with a slash: {self.group}=NAME")]
        given = {key: value for key, value in node.items() if key != "name"}
        known = {option.name for option in schema.options}
        explained = f"`zoo show {schema.name}` explains every option"
        errors = unknown_keys(given, known | set(also), path, f"{self.kind} {schema.name!r} has no option", explained, elsewhere=elsewhere)
        values, wrong = option_values(given, schema.options, path)
        errors += wrong
        return (None if errors or values is None else {"name": schema.name, **values}), errors

    def build(self, node: Mapping[str, Any], path: str, wire: "Wire | None" = None, /, **wired: Any) -> Any:
        """Construct a checked node, and before it the components in its options.

        Args:
            node: checked.
            path: dotted, of the node.
            wire: gives what a nested component's spec parameters are filled with.
            wired: what this one's are.

        Raises:
            ConfigError: where the constructor refuses its values.
        """
        schema = self.schema(node["name"])
        component = self.load(node["name"])
        hints = typing.get_type_hints(component.__init__ if inspect.isclass(component) else component)
        options = {option.name: _build_nested(node[option.name], option.type, f"{path}.{option.name}", wire or _nothing_to_wire) for option in schema.options}
        try:
            return component(**{name: to_python(value, hints[name]) for name, value in options.items()}, **wired)
        except ConfigError:
            raise
        except ValueError as error:
            # Constructors begin with the option that is to blame, "patch_size=5 does not ...", which makes the path exact.
            option = str(error).partition("=")[0]
            where = f"{path}.{option}" if option in {entry.name for entry in schema.options} else path
            problem, *ways_out = _WAY_OUT.split(str(error))  # what an error of zoo's own knows joins the one list
            raise ConfigError(
                where, f"{self.kind} {schema.name!r} cannot be built: {problem}", *ways_out, f"`zoo show {schema.name}` explains its options"
            ) from error

    def _no_name(self, node: Any, path: str) -> ConfigError:
        choices = f"known: {', '.join(self.names())}"
        if isinstance(node, str) and node != MISSING:
            problem = f"{node!r} is a name where the node of {article(self.kind)} is needed"
            return ConfigError(path, problem, f"choose it as a group, with a slash: {self.group}={node}", choices)
        choose = f"choose one: {self.group}=NAME; {choices}"
        if isinstance(node, Mapping):
            return ConfigError(f"{path}.name", f"{node.get('name')!r} names no {self.kind}", choose)
        return ConfigError(path, f"{node!r} is no {self.kind}", choose)

    def _unknown(self, name: str) -> str:
        lines = [f"no {self.kind} is named {name!r}; {did_you_mean(name, self.names())}", f"  all: {', '.join(self.names())}"]
        lines += [f"  plugin {plugin} could not be imported: {reason}" for plugin, reason in plugin_errors.items()]
        return "\n".join([*lines, "  a component of your own: --import path/to/file.py"])


_WAY_OUT = re.compile(r"\n\s*way out(?: \d+)?: ")
Wire = Callable[[Registry, Mapping[str, Any], str], dict[str, Any]]
"""Registry, node and path of a nested component -> what its spec parameters are filled with. The path ends in its option's name, or in its label."""


def _nothing_to_wire(components: Registry, node: Mapping[str, Any], path: str) -> dict[str, Any]:
    if needs := components.schema(node["name"]).wired:
        raise ConfigError(path, f"{components.kind} {node['name']!r} wants {' or '.join(needs[0].specs)}, which nothing here gives")
    return {}


def _build_nested(value: Any, kind: Any, path: str, wire: Wire) -> Any:
    if value is None:
        return None
    if kind.form == "component":
        nested = registry(kind.name)
        return nested.build(value, path, wire, **wire(nested, value, path))
    if kind.form == "union":
        inner = next((arg for arg in kind.args if arg.form in ("component", "dict", "list", "tuple")), None)
        return _build_nested(value, inner, path, wire) if inner and not isinstance(value, str | int | float) else value
    if kind.form == "dict" and kind.args[0].form == "component":
        return {key: _build_nested(entry, kind.args[0], f"{path}.{key}", wire) for key, entry in value.items()}
    if kind.form in ("list", "tuple") and kind.args[0].form == "component":
        return [_build_nested(entry, kind.args[0], f"{path}[{place}]", wire) for place, entry in enumerate(value)]
    return value


@cache
def _index() -> dict[str, dict[str, Schema]]:
    return read_index()


def _builtin(kind: str) -> dict[str, Schema]:
    return _index()[kind]


def _entry_points() -> "Iterable[EntryPoint]":
    """Entry points of installed plugins. The files are looked through first: importing importlib.metadata takes a quarter of `zoo list`."""
    if not any(_declares_plugins(folder or ".") for folder in dict.fromkeys(sys.path)):
        return ()
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINTS)


def _declares_plugins(folder: str) -> bool:
    """Whether a distribution that is installed in this folder of ``sys.path`` may declare plugins of zoo."""
    try:
        with os.scandir(folder) as entries:
            installed = [entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
    except OSError:
        return os.path.isfile(folder)  # noqa: PTH113 - an archive of modules, which importlib.metadata can look into
    return any(_mentions_group(f"{path}/entry_points.txt") for path in installed)


def _mentions_group(file: str) -> bool:
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - a hundred of these stand before every answer of `zoo list`
            return ENTRY_POINTS.encode() in stream.read()
    except OSError:
        return False


@cache
def load_plugins() -> None:
    """Import installed plugins once; what fails is kept for messages, since one broken plugin must not break the rest."""
    for point in _entry_points():
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
CONVERTERS = Registry("converter", "converter")

KINDS: dict[str, Registry] = {
    entry.kind: entry for entry in (ENCODERS, DECODERS, HEADS, DATASETS, TRANSFORMS, TOKENIZERS, OPTIMIZERS, SCHEDULES, CALLBACKS, LOGGERS, CONVERTERS)
}


def registry(kind: str) -> Registry:
    """The registry of a kind.

    Raises:
        RegistryError: for an unknown kind.
    """
    if kind not in KINDS:
        raise RegistryError(f"there is no kind of component named {kind!r}; {did_you_mean(kind, KINDS)}")
    return KINDS[kind]
