"""What is published names no place on the machine that trained: paths of configs, commands and texts, as others can use them. Imports no torch."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from zoo.data.folders import cache_folder, data_folder
from zoo.files import home

DATA = "data"
"""What the paths of zoo's presets begin with where ZOO_DATA is not set."""
PATHS = ("path", "paths", "root", "roots", "file", "files", "folder", "folders", "dir", "init", "resume", "rerun", "checkpoint_to")
"""Options that are paths, by the last part of their key; and those that end so behind an underscore: ``run_dir``, ``test_path``."""
NAME = "name"
"""Of a run or a model: what was converted from a folder may be called by it."""
NO_PATHS = ("spec",)
"""What a model takes and answers with: labels like ``/m/09x0r`` (AudioSet's) are no paths."""
_SOMEBODYS = re.compile(r"/(home|Users)/[^/]+/.|[A-Za-z]:[\\/]Users[\\/].|file:///.")
_OVERRIDE = re.compile(r"(?P<key>(?:\+\+|\+|~)?[^=]+)=(?P<value>.*)", re.DOTALL)
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ALONE = re.compile(rf"{_QUOTED}|[^,]+")
_COLLECTED = re.compile(rf"{_QUOTED}|[^,\[\]{{}}'\"\s][^,\[\]{{}}]*")
_KEY = re.compile(r"""[\w.-]{2,}:\s*(?=[/~'"])(?!//)""")


def is_path(key: str) -> bool:
    """Whether the option of that dotted key is a path, or a list of paths."""
    last = re.sub(r"\[\d+\]", "", key).rpartition(".")[2]
    return key == NAME or last in PATHS or last.rpartition("_")[2] in PATHS


def portable_path(text: str, *, outside: bool = True) -> str:
    """A path without the folders of this machine: below ``data`` what lies below ``$ZOO_DATA``, and by its last name what lies elsewhere.

    Args:
        text: a path; what is no absolute one, and none from a home folder, is given back as it is.
        outside: whether that is done to paths elsewhere too; else they are kept.
    """
    plain = text.removeprefix("file://")
    windows = PureWindowsPath(plain)
    if windows.drive and windows.root:
        return windows.name if outside and windows.name else text
    home = plain.startswith("~") and "/" in plain
    if not (plain.startswith("/") or home) or "\n" in plain or PurePosixPath(plain).name in ("", "~"):
        return text
    path = _absolute(plain)
    for folder in _data_folders():
        if path is not None and path.is_relative_to(folder):
            return (PurePosixPath(DATA) / path.relative_to(folder)).as_posix()
    return PurePosixPath(plain).name if outside else text


def portable(tree: Mapping[str, Any], *, outside: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """A config as it is published, and what its paths became: by dotted key, ``before -> after``.

    Args:
        tree: names and values; what is no path by its key, and lies in no folder of this machine, is kept.
        outside: as for ``portable_path``.
    """
    told: dict[str, str] = {}

    def visit(value: Any, where: str) -> Any:
        if where in NO_PATHS:
            return value
        if isinstance(value, Mapping):
            return {key: visit(entry, f"{where}.{key}" if where else str(key)) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [visit(entry, f"{where}[{place}]") for place, entry in enumerate(value)]
        if not isinstance(value, str) or not (is_path(where) or _of_a_machine(value)):
            return value
        if (after := portable_path(value, outside=outside)) != value:
            told[where] = f"{value} -> {after}"
        return after

    return visit(tree, ""), told


def portable_word(word: str) -> str:
    """An override of a command line, ``data.path=/home/me/rows.csv``, without the folders of this machine; its value may be quoted, a list or a mapping."""
    parts = _OVERRIDE.fullmatch(word)
    if parts is None:
        return word
    key, value = parts["key"], parts["value"]
    path = is_path(key.lstrip("+~"))

    def rewritten(found: re.Match[str]) -> str:
        text = found[0]
        named = _KEY.match(text)
        before, text = (text[: named.end()], text[named.end() :]) if named else ("", text)
        quote = text[0] if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0] else ""
        inner = text[1:-1] if quote else text
        return before + quote + (portable_path(inner) if path or _of_a_machine(inner) else inner) + quote

    return f"{key}={(_COLLECTED if value.startswith(('[', '{')) else _ALONE).sub(rewritten, value)}"


def key_of_word(word: str) -> str:
    """The dotted key that an override sets, adds (``+``, ``++``) or removes (``~``)."""
    return word.partition("=")[0].lstrip("+~")


def places(*more: Path) -> list[str]:
    """Folders of this machine that no published text names, the longest first: home, data, cache, the current one; and those that are given."""
    folders = [Path.home(), cache_folder("x").parent.parent, Path.cwd(), *_data_folders(), *more]
    found = {str(form) for folder in folders for form in (Path(os.path.abspath(folder)), folder.resolve())}  # noqa: PTH100 - links stay as they are called
    return sorted(found - {"/"}, key=lambda place: (-len(place), place))


def portable_text(text: str, folders: Iterable[str], sources: Iterable[str] = ()) -> tuple[str, dict[int, str]]:
    """A text without the folders of this machine, and what became of them: by line, ``before -> after``.

    Args:
        text: of Markdown or JSON.
        folders: absolute, the longest first.
        sources: whole paths that may occur in it, with spaces or not.
    """
    told: dict[int, str] = {}
    whole = "|".join(re.escape(source) for source in sources)
    inside = "|".join(re.escape(folder) + ("" if folder.count("/") > 1 else r"(?=/[^\s/])") for folder in folders)
    ends = r"""[^\s"'`<>()\[\],;]*"""
    forms = [rf"(?<=\")(?:{inside})(?:/[^\"\\]*)?(?=\")", rf"(?<![\w.~/:-])(?:{inside})(?![\w.-])(?:/{ends})?"]
    pattern = re.compile("|".join([rf"(?<![\w~])(?:{whole})(?![\w/-])"] * bool(whole) + forms))
    lines = text.split("\n")
    for place, line in enumerate(lines):
        changes: list[str] = []

        def rewritten(found: re.Match[str], changes: list[str] = changes) -> str:
            path = found[0].rstrip(".:")
            after = portable_path(path)
            changes.append(f"{path} -> {after}")
            return after + found[0][len(path) :]

        lines[place] = pattern.sub(rewritten, line)
        if changes:
            told[place + 1] = "; ".join(dict.fromkeys(changes))
    return "\n".join(lines), told


def sources_of(report: str) -> list[str]:
    """The folder that a model was converted from, as its ``conversion.json`` says; none where that is an address."""
    try:
        tree = json.loads(report)
    except (ValueError, RecursionError):
        return []
    source = tree.get("source") if isinstance(tree, dict) else None
    return [source] if isinstance(source, str) and portable_path(source) != source else []


def on_this_machine(path: str) -> str:
    """Where published data lies here: ``data/...`` below ``$ZOO_DATA`` where it is there, and not below the current folder."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] != DATA or Path(path).exists():
        return path
    here = data_folder().joinpath(*parts[1:])
    return str(here) if here.exists() else path


def _data_folders() -> list[Path]:
    """``$ZOO_DATA``, as it is called and where its links lead; none where it is not set: ./data is another one wherever a command is given."""
    root = _absolute(os.environ.get("ZOO_DATA") or "")
    return list(dict.fromkeys((root, root.resolve()))) if root is not None else []


def _absolute(text: str) -> Path | None:
    """None for no path, and for the home of a user who is not on this machine."""
    try:
        return Path(os.path.abspath(home(text))) if text else None  # noqa: PTH100 - links stay as they are called
    except (RuntimeError, ValueError):
        return None


def _of_a_machine(text: str) -> bool:
    """Whether a text can be nothing else than a path: in somebody's home folder, in this machine's, or in ``$ZOO_DATA``."""
    if _SOMEBODYS.match(text):
        return True
    path = _absolute(text) if text.startswith("/") else None
    return path is not None and any(path.is_relative_to(folder) for folder in (Path.home(), *_data_folders()) if folder != Path("/"))
