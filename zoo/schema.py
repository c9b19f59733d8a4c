"""A constructor's signature as a schema: option types, read from live signatures or from source text. No torch here.

``Option`` types form a small closed algebra (``OptionType``); anything else in a signature is refused when it registers, so that
every option can be checked, printed and overridden without running the component.
"""

import ast
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, Union

from zoo.errors import ConfigError, ManyConfigError, RegistryError, article, did_you_mean, near

MISSING = "???"
"""What a config file writes for a value that has to be given."""

SCALARS = {"int": int, "float": float, "bool": bool, "str": str}
COMPONENT_TYPES = {"Encoder": "encoder", "Decoder": "decoder", "Head": "head", "Tokenizer": "tokenizer", "Transform": "transform"}
"""Annotations that stand for another component: the config holds its node, the constructor receives it built."""

EXTRA_WIRED = frozenset({"ParameterGroups", "RunInfo"})
"""Run-time objects that the builder wires in besides specs."""


class Required:
    """Marks an option without a default."""

    def __repr__(self) -> str:
        return "???"

    def __deepcopy__(self, memo: object) -> "Required":
        return self  # compared with `is`


REQUIRED = Required()


@dataclass(frozen=True)
class OptionType:
    """``form`` is a scalar's name, or one of enum, literal, union, list, tuple, dict, none, component."""

    form: str
    args: tuple["OptionType", ...] = ()
    name: str = ""
    choices: tuple[Any, ...] = ()
    variadic: bool = False

    def holds(self, kind: str) -> bool:
        """Whether values are, or contain, components of a kind."""
        return (self.form == "component" and self.name == kind) or any(arg.holds(kind) for arg in self.args)

    def __str__(self) -> str:
        match self.form:
            case "enum" | "literal":
                return " | ".join(str(choice) for choice in self.choices)
            case "union":
                return " | ".join(str(arg) for arg in self.args)
            case "none":
                return "null"
            case "list":
                return f"list of {self.args[0]}"
            case "tuple":
                return f"list of {self.args[0]}" if self.variadic else f"[{', '.join(str(arg) for arg in self.args)}]"
            case "dict":
                return f"mapping of names to {self.args[0]}"
            case "component":
                return article(self.name)
        return self.form


@dataclass(frozen=True)
class Option:
    name: str
    type: OptionType
    default: Any = REQUIRED
    doc: str = ""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True)
class Wired:
    """A parameter that the builder fills: the names of the spec classes that it takes."""

    name: str
    specs: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True)
class Schema:
    """One component, as people and the config see it."""

    kind: str
    name: str
    module: str
    qualname: str
    summary: str
    doc: str
    options: tuple[Option, ...]
    wired: tuple[Wired, ...]
    origin: str

    def option(self, name: str) -> Option | None:
        return next((option for option in self.options if option.name == name), None)

    def defaults(self) -> dict[str, Any]:
        """The config node that registering gives: ``name`` and every option; ``???`` for required ones."""
        return {"name": self.name} | {option.name: "???" if option.required else option.default for option in self.options}


# --- checking values --------------------------------------------------------------------------------------------------------------


def option_values(node: Mapping[str, Any], options: tuple[Option, ...], path: str) -> tuple[dict[str, Any] | None, list[ConfigError]]:
    """Every option with its checked value, defaults filled in; or None and everything that is wrong."""
    found: dict[str, Any] = {}
    errors: list[ConfigError] = []
    for option in options:
        where = f"{path}.{option.name}" if path else option.name
        value = node.get(option.name, MISSING if option.required else option.default)
        if isinstance(value, str) and value == MISSING:
            errors.append(ConfigError(where, f"has to be given: {option.doc}", f"{where}=... ({option.type})"))
            continue
        try:
            found[option.name] = check_value(value, option.type, where)
        except ManyConfigError as many:
            errors += many.errors
        except ConfigError as error:
            default = "" if option.required else f"; its default is {json.dumps(option.default)}"
            errors.append(ConfigError(error.path, error.problem, *(error.ways_out or [f"{where} takes {option.type}{default}"])))
    return (None if errors else found), errors


def unknown_keys(
    node: Mapping[str, Any], known: set[str], path: str, refused: str, *ways_out: str, elsewhere: Callable[[str], list[str]] = lambda _: []
) -> list[ConfigError]:
    """An error for each key that is none of ``known``.

    Args:
        node: what was given.
        known: keys that it may have.
        path: of the node.
        refused: what goes before the key: "encoder 'vit' has no option".
        ways_out: after the near names.
        elsewhere: where else a key of this name stands.
    """
    errors = []
    for key in map(str, node):
        if key not in known:
            where = f"{path}.{key}" if path else key
            places = [place for place in elsewhere(key) if place != where]
            ways = [did_you_mean(key, known)] if near(key, known) or not places else []
            ways += [f"did you mean {' or '.join(places[:3])}?"] if places else []
            errors.append(ConfigError(where, f"{refused} {key!r}", *ways, *ways_out))
    return errors


def check_value(value: Any, kind: OptionType, path: str) -> Any:
    """``value`` as plain data of type ``kind`` (enums by value, tuples as lists, ints given for floats as floats).

    Raises:
        ConfigError: with the path, the value and the type.
    """
    match kind.form:
        case "none" if value is None:
            return None
        case "bool" if isinstance(value, bool):
            return value
        case "int" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "float" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "str" if isinstance(value, str):
            return value
        case "enum" | "literal":
            if value in kind.choices:
                return value
            raise ConfigError(path, f"{value!r} is not one of {', '.join(map(str, kind.choices))}", did_you_mean(str(value), map(str, kind.choices)))
        case "list" if isinstance(value, list | tuple):
            return [check_value(entry, kind.args[0], f"{path}[{place}]") for place, entry in enumerate(value)]
        case "tuple" if isinstance(value, list | tuple):
            if kind.variadic:
                return [check_value(entry, kind.args[0], f"{path}[{place}]") for place, entry in enumerate(value)]
            if len(value) != len(kind.args):
                raise ConfigError(path, f"{list(value)} has {len(value)} entries where {len(kind.args)} are needed: {kind}")
            return [check_value(entry, arg, f"{path}[{place}]") for place, (entry, arg) in enumerate(zip(value, kind.args, strict=True))]
        case "dict" if isinstance(value, dict):
            return {_check_key(key, path): check_value(entry, kind.args[0], f"{path}.{key}") for key, entry in value.items()}
        case "component" if isinstance(value, dict):
            from zoo.registry import registry  # the two modules need each other: a component's options may be components

            return registry(kind.name).check_node(value, path)
        case "union":
            return _check_union(value, kind, path)
    if kind.form == "component" and isinstance(value, str):
        group = path.replace(".", "/")
        raise ConfigError(path, f"{value!r} is a name where the node of {article(kind.name)} is needed", f"choose it as a group, with a slash: {group}={value}")
    raise ConfigError(path, f"{value!r} is {_type_name(value)}, expected {kind}")


def _check_union(value: Any, kind: OptionType, path: str) -> Any:
    reasons = []
    for arg in kind.args:
        try:
            return check_value(value, arg, path)
        except ConfigError as reason:
            if arg.form in ("component", "dict", "list", "tuple", "enum", "literal") and not isinstance(value, bool | None):
                reasons.append(reason)
    if len(reasons) == 1:
        raise reasons[0]
    raise ConfigError(path, f"{value!r} is {_type_name(value)}, expected {kind}")


def _check_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise ConfigError(path, f"the key {key!r} is {_type_name(key)}, expected a name")
    return key


def _type_name(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", type(None): "null", dict: "a mapping", list: "a list", tuple: "a list"}
    return names.get(type(value), type(value).__name__)


def to_python(value: Any, hint: Any) -> Any:
    """Plain checked data as the type that the live signature asks for: enum members and tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for arg in args:
            if isinstance(arg, type) and issubclass(arg, StrEnum) and isinstance(value, str) and value in list(arg):
                return arg(value)
            if typing.get_origin(arg) is tuple and isinstance(value, list):
                return to_python(value, arg)
        return value
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(value)
    if origin is tuple and isinstance(value, list):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        return tuple(to_python(entry, arg) for entry, arg in zip(value, inner, strict=True))
    if origin is list:
        return [to_python(entry, args[0]) for entry in value]
    if origin is dict:
        return {key: to_python(entry, args[1]) for key, entry in value.items()}
    return value


# --- from live signatures ---------------------------------------------------------------------------------------------------------


def schema_of(component: Callable[..., Any], *, kind: str, name: str) -> Schema:
    """Read the signature of a class (its constructor) or of a function.

    Raises:
        RegistryError: for positional parameters, ``*args``, ``**kwargs``, missing or unusable annotations.
    """
    where = f"{kind} {name!r} ({origin_of(component)})"
    target = component.__init__ if inspect.isclass(component) else component
    parameters = list(inspect.signature(target).parameters.values())[1 if inspect.isclass(component) else 0 :]
    if inspect.isclass(component) and component.__init__ is object.__init__:
        parameters = []
    hints = typing.get_type_hints(target)
    docs = argument_docs(inspect.getdoc(component) or "")
    options, wired = [], []
    for parameter in parameters:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise RegistryError(f"{where}: parameter {parameter} is not keyword-only; write `*,` before it: the signature is the config's schema")
        if parameter.name == "name":
            raise RegistryError(f"{where}: parameter {parameter.name!r} would clash with the node's own key; rename it")
        if parameter.name not in hints:
            raise RegistryError(f"{where}: parameter {parameter.name!r} has no type; the signature is the config's schema")
        hint = hints[parameter.name]
        if specs := wired_names(hint):
            wired.append(Wired(parameter.name, specs, optional=type(None) in typing.get_args(hint)))
            continue
        default = REQUIRED if parameter.default is inspect.Parameter.empty else plain(parameter.default)
        options.append(Option(parameter.name, option_type(hint, f"{where}, parameter {parameter.name!r}"), default, docs.get(parameter.name, "")))
    doc = inspect.getdoc(component) or ""
    return Schema(kind, name, component.__module__, component.__qualname__, first_sentence(doc), doc, tuple(options), tuple(wired), origin_of(component))


def settings_options(settings: type) -> tuple[Option, ...]:
    """The fields of a settings dataclass as options."""
    assert is_dataclass(settings)
    hints, docs = typing.get_type_hints(settings), argument_docs(inspect.getdoc(settings) or "")
    options = []
    for field in fields(settings):
        default: Any = REQUIRED
        if field.default is not NO_DEFAULT:
            default = plain(field.default)
        elif field.default_factory is not NO_DEFAULT:
            default = plain(field.default_factory())
        options.append(Option(field.name, option_type(hints[field.name], f"{settings.__name__}.{field.name}"), default, docs.get(field.name, "")))
    return tuple(options)


def option_type(hint: Any, where: str) -> OptionType:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in SCALARS.values():
        return OptionType(hint.__name__)
    if hint is type(None) or hint is None:
        return OptionType("none")
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return OptionType("enum", name=hint.__name__, choices=tuple(str(member) for member in hint))
    if isinstance(hint, type) and hint.__name__ in COMPONENT_TYPES:
        return OptionType("component", name=COMPONENT_TYPES[hint.__name__])
    if origin is Literal:
        return OptionType("literal", choices=args)
    if origin in (Union, types.UnionType):
        return OptionType("union", tuple(option_type(arg, where) for arg in args))
    if origin is list:
        return OptionType("list", (option_type(args[0], where),))
    if origin is tuple:
        variadic = len(args) == 2 and args[1] is Ellipsis
        return OptionType("tuple", tuple(option_type(arg, where) for arg in (args[:1] if variadic else args)), variadic=variadic)
    if origin is dict and args[0] is str:
        return OptionType("dict", (option_type(args[1], where),))
    raise RegistryError(
        f"{where}: type {hint!r} cannot stand in a config; "
        "use int, float, bool, str, StrEnum, Literal, X | None, list, tuple, dict[str, X], or a spec to have it wired"
    )


def wired_names(hint: Any) -> tuple[str, ...]:
    from zoo.specs import Spec

    parts = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(part.__name__ for part in parts if isinstance(part, type) and (issubclass(part, Spec) or part.__name__ in EXTRA_WIRED))


def plain(value: Any) -> Any:
    """A default as config data."""
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return value


def origin_of(component: Callable[..., Any]) -> str:
    """``file:line``, or the module where there is no file (a notebook)."""
    try:
        return f"{inspect.getsourcefile(component)}:{inspect.getsourcelines(component)[1]}"
    except (OSError, TypeError):
        return str(component.__module__)


# --- docstrings -------------------------------------------------------------------------------------------------------------------


def first_sentence(doc: str) -> str:
    paragraph = " ".join(doc.strip().split("\n\n")[0].split())
    match = re.match(r"(.+?[.!?])(?:\s|$)(?![a-z(])", paragraph)
    return match.group(1) if match else paragraph


def argument_docs(doc: str) -> dict[str, str]:
    """The ``Args:`` section of a docstring, by name; continuation lines are joined."""
    found: dict[str, str] = {}
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\s*\n)*)", inspect.cleandoc(doc) + "\n", re.MULTILINE)
    if not section:
        return found
    indent = len(section.group(1)) - len(section.group(1).lstrip(" "))
    current = ""
    for line in section.group(1).splitlines():
        entry = re.match(rf" {{{indent}}}(\w+)(?: \(.*?\))?: (.*)$", line)
        if entry:
            current = entry.group(1)
            found[current] = entry.group(2).strip()
        elif current and line.strip():
            found[current] += " " + line.strip()
    return found


def docstring_of(node: ast.AST) -> str:
    return ast.get_docstring(node) or "" if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module) else ""
