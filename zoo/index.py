"""The schemas of zoo's own components, read from their source text: no import, so no torch.

``zoo --help``, ``zoo list`` and every config error need names, options, types, defaults and docs, and importing the components to get
them would cost seconds. The sources are parsed instead, and the result is cached by their sizes and times. A test holds the index
equal to the imported registry.
"""

import ast
import json
import os
import re
import tempfile
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoo.schema import COMPONENT_TYPES, EXTRA_WIRED, REQUIRED, SCALARS, Option, OptionType, Schema, Wired, argument_docs, docstring_of, first_sentence

PACKAGE = Path(__file__).parent
REGISTRY_NAMES = {
    "ENCODERS": "encoder",
    "DECODERS": "decoder",
    "HEADS": "head",
    "DATASETS": "dataset",
    "TRANSFORMS": "transform",
    "TOKENIZERS": "tokenizer",
    "OPTIMIZERS": "optimizer",
    "SCHEDULES": "schedule",
    "CALLBACKS": "callback",
    "LOGGERS": "logger",
    "CONVERTERS": "converter",
}
_REGISTERS = re.compile(rf"^@({'|'.join(REGISTRY_NAMES)})\.register\(", re.MULTILINE)


def read_index() -> dict[str, dict[str, Schema]]:
    """Kind -> name -> schema of every component under ``zoo/``."""
    sources = {path: path.stat() for path in sorted(PACKAGE.rglob("*.py"))}
    stamp = repr([(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in sources.items()])
    cached = _cache_file(sha256(stamp.encode()).hexdigest()[:24])
    if (schemas := _load(cached)) is None:
        schemas = [schema for path in sources for schema in read_source(path)]
        _save(cached, schemas)
    index: dict[str, dict[str, Schema]] = {kind: {} for kind in REGISTRY_NAMES.values()}
    for schema in schemas:
        assert schema.name not in index[schema.kind], (
            f"{schema.kind} {schema.name!r} is registered in {schema.origin} and {index[schema.kind][schema.name].origin}"
        )
        index[schema.kind][schema.name] = schema
    return index


def read_source(path: Path) -> list[Schema]:
    """The components that one of zoo's own files registers."""
    text = path.read_text(encoding="utf-8")
    if not _REGISTERS.search(text):
        return []
    module = Module(path, text)
    return [module.schema(node, kind, name) for node in module.tree.body for kind, name in _registrations(node)]


def _registrations(node: ast.stmt) -> list[tuple[str, str]]:
    found = []
    for decorator in getattr(node, "decorator_list", []):
        match decorator:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=registry), attr="register"), args=[ast.Constant(value=str(name))]) if registry in REGISTRY_NAMES:
                found.append((REGISTRY_NAMES[registry], name))
    return found


class Module:
    """One source file: its classes and what it imports from other files of zoo."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.tree = path, ast.parse(text)
        self.classes = {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}
        self.imports = {
            alias.asname or alias.name: node.module
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("zoo.")
            for alias in node.names
        }

    def schema(self, node: ast.stmt, kind: str, name: str) -> Schema:
        assert isinstance(node, ast.ClassDef | ast.FunctionDef)
        doc = docstring_of(node)
        docs = argument_docs(doc)
        function = (
            node
            if isinstance(node, ast.FunctionDef)
            else next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
        )
        options, wired = [], []
        arguments = list(zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)) if function else []
        for argument, default in arguments:
            assert argument.annotation is not None, f"{self.path}: {name}.{argument.arg} has no type"
            parts = _union_parts(argument.annotation)
            if specs := tuple(part.id for part in parts if isinstance(part, ast.Name) and self._is_wired(part.id)):
                wired.append(Wired(argument.arg, specs, optional=any(isinstance(part, ast.Constant) for part in parts)))
                continue
            value = REQUIRED if default is None else self._value(default)
            options.append(Option(argument.arg, self._type(argument.annotation), value, docs.get(argument.arg, "")))
        relative = self.path.relative_to(PACKAGE.parent)
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        return Schema(
            kind,
            name,
            module,
            node.name,
            first_sentence(doc),
            doc,
            tuple(options),
            tuple(wired),
            f"{self.path}:{min(item.lineno for item in node.decorator_list)}",
        )

    def _is_wired(self, name: str) -> bool:
        return name in EXTRA_WIRED or (self.imports.get(name) == "zoo.specs" and name not in ("Layout", "Labelling"))

    def _type(self, node: ast.expr) -> OptionType:
        match node:
            case ast.Name(id=name) if name in SCALARS:
                return OptionType(name)
            case ast.Constant(value=None):
                return OptionType("none")
            case ast.Name(id=name) if name in COMPONENT_TYPES:
                return OptionType("component", name=COMPONENT_TYPES[name])
            case ast.Name(id=name):
                return OptionType("enum", name=name, choices=tuple(self._members(name).values()))
            case ast.BinOp(op=ast.BitOr()):
                return OptionType("union", tuple(self._type(part) for part in _union_parts(node)))
            case ast.Subscript(value=ast.Name(id="list"), slice=inner):
                return OptionType("list", (self._type(inner),))
            case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, inner])):
                return OptionType("dict", (self._type(inner),))
            case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[inner, ast.Constant(value=end)])) if end is Ellipsis:
                return OptionType("tuple", (self._type(inner),), variadic=True)
            case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=inners)):
                return OptionType("tuple", tuple(self._type(inner) for inner in inners))
            case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
                choices = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                return OptionType("literal", choices=tuple(ast.literal_eval(choice) for choice in choices))
        raise AssertionError(f"{self.path}:{node.lineno}: type {ast.unparse(node)} cannot be read statically; the registry lists what can")

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=member):
                return self._members(name)[member]
            case ast.Tuple(elts=entries) | ast.List(elts=entries):
                return [self._value(entry) for entry in entries]
        return ast.literal_eval(node)

    def _members(self, name: str) -> dict[str, str]:
        """Member -> value of a StrEnum, here or where it is imported from."""
        if name in self.classes:
            members = [item for item in self.classes[name].body if isinstance(item, ast.Assign)]
            return {target.id: ast.literal_eval(item.value) for item in members for target in item.targets if isinstance(target, ast.Name)}
        assert name in self.imports, f"{self.path}: {name} is neither a scalar, an enum of this file, nor imported from zoo"
        source = PACKAGE.parent.joinpath(*self.imports[name].split("."))
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        return Module(source, source.read_text(encoding="utf-8"))._members(name)


def _union_parts(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union_parts(node.left) + _union_parts(node.right)
    return [node]


# --- cache ------------------------------------------------------------------------------------------------------------------------


def _cache_file(stamp: str) -> Path:
    root = os.environ.get("ZOO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"
    return Path(root) / f"index-{stamp}.json"


def _load(path: Path) -> list[Schema] | None:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [_schema(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):  # no cache, or a damaged one: read the sources again
        return None


def _save(path: Path, schemas: list[Schema]) -> None:
    entries = [asdict(schema) for schema in schemas]
    for entry in entries:
        for option in entry["options"]:
            if option["default"] is REQUIRED:
                del option["default"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in sorted(path.parent.glob("index-*.json"), key=lambda file: file.stat().st_mtime)[:-8]:
            stale.unlink(missing_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(entries, file)
        Path(file.name).replace(path)
    except OSError:  # a read-only home: the sources are read each time
        return


def _schema(entry: dict[str, Any]) -> Schema:
    options = tuple(Option(option["name"], _option_type(option["type"]), option.get("default", REQUIRED), option["doc"]) for option in entry.pop("options"))
    wired = tuple(Wired(item["name"], tuple(item["specs"]), item["optional"]) for item in entry.pop("wired"))
    return Schema(**entry, options=options, wired=wired)


def _option_type(node: dict[str, Any]) -> OptionType:
    return OptionType(node["form"], tuple(_option_type(arg) for arg in node["args"]), node["name"], tuple(node["choices"]), node["variadic"])
