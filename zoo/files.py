"""Files that are there whole or not at all, readable by whoever the umask allows (``tempfile`` makes files for their owner alone)."""

import os
import secrets
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write beside the file, force it to disk, then put it in its place."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")  # threads, and other machines' processes, may have the same number
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def home(text: str | Path) -> Path:
    """A path as it was typed: ``~`` is the user's folder; ``~name`` of a user that there is not stays as it is, where pathlib raises."""
    return Path(os.path.expanduser(text))  # noqa: PTH111
