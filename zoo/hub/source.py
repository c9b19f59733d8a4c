"""What a model in the cache was made of, and what was written: the file beside it. Imports no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError
from zoo.files import write_whole

SOURCE = ".source.json"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> list[int]:
    """Size, inode and time: while they stay, a file is believed to be what it was."""
    state = path.stat()
    return [state.st_size, state.st_ino, state.st_mtime_ns]


def write_source(folder: Path, *, name: str, source: str, files: dict[str, str]) -> None:
    """Record what a model's folder holds and what it was made of; the last file that is written into it."""
    written = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SOURCE}
    seen = {path: fingerprint(folder / path) for path in written}
    told = {"name": name, "source": source, "files": files, "written": written, "seen": seen}
    write_whole(folder / SOURCE, json.dumps(told, indent=1))


def read_source(file: Path) -> dict[str, Any]:
    """What ``write_source`` wrote.

    Raises:
        CheckpointError: where it is damaged.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or not all(isinstance(told[key], dict) for key in ("files", "written", "seen")):
            raise TypeError("not the record of a model")
        if not isinstance(told["name"], str) or not isinstance(told["source"], str):
            raise TypeError("name and source are texts")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: damaged: {type(error).__name__}: {error}\n  way out: remove the folder {file.parent}") from error
    return told
