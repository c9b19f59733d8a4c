"""What is published names no place on the machine that trained: paths of configs and commands, as others can use them. Imports no torch."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from zoo.data.folders import data_folder

DATA = "data"
"""What the paths of zoo's presets begin with where ZOO_DATA is not set."""
_IN_WORDS = re.compile(r"""(?<![\w:/.~\\-])(?:~?/|[A-Za-z]:[\\/])[^\s,;'"\]\[{}()]+""")
"""A path of a machine within a word of a command line; what follows a scheme (hf://org/name) is none."""


def portable_path(text: str, *, outside: bool = True) -> str:
    """A path without the folders of this machine: below ``data`` what lies below ``$ZOO_DATA``, and by its last name what lies elsewhere.

    Args:
        text: any value of a config; what is no absolute path, and none from the home folder, is given back as it is.
        outside: whether that is done to paths elsewhere too; else they are kept.
    """
    windows = PureWindowsPath(text)
    if windows.drive and windows.root:
        return windows.name if outside and windows.name else text
    if not text.startswith(("/", "~/")) or "\n" in text or not PurePosixPath(text).name:
        return text
    path, root = (Path(os.path.abspath(Path(place).expanduser())) for place in (text, data_folder()))  # noqa: PTH100 - links stay as they are called
    for folder in (root, root.resolve()):
        if path.is_relative_to(folder):
            return (PurePosixPath(DATA) / path.relative_to(folder)).as_posix()
    return path.name if outside else text


def portable(tree: Mapping[str, Any], *, outside: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """A config as it is published, and what its paths became: by dotted key, ``before -> after``.

    Args:
        tree: names and values.
        outside: as for ``portable_path``.
    """
    told: dict[str, str] = {}

    def visit(value: Any, where: str) -> Any:
        if isinstance(value, Mapping):
            return {key: visit(entry, f"{where}.{key}" if where else str(key)) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [visit(entry, f"{where}[{place}]") for place, entry in enumerate(value)]
        if isinstance(value, str) and (after := portable_path(value, outside=outside)) != value:
            told[where] = f"{value} -> {after}"
            return after
        return value

    return visit(tree, ""), told


def portable_word(word: str) -> str:
    """A word of a command line, ``data.path=/home/me/rows.csv``, without the folders of this machine."""
    return _IN_WORDS.sub(lambda found: portable_path(found[0]), word)


def on_this_machine(path: str) -> str:
    """Where published data lies here: ``data/...`` below ``$ZOO_DATA`` where it is there, and not below the current folder."""
    parts = PurePosixPath(path).parts
    if len(parts) < 2 or parts[0] != DATA or Path(path).exists():
        return path
    here = data_folder().joinpath(*parts[1:])
    return str(here) if here.exists() else path
