"""What was downloaded: files by the checksum of their content, and the models that were made of them. Imports neither torch nor a network library.

    $ZOO_CACHE, else $XDG_CACHE_HOME/zoo, else ~/.cache/zoo
      blobs/<sha256>          a file, checked when it arrived
      blobs/<sha256>.seen     size, inode and time that it had then
      blobs/<sum>.HOST-PID-TOKEN.partial    what one process has of a file so far
      models/<name>-<key>/    a bundle, with .source.json: what it was made of

A file under its checksum was complete and right when it got that name. It is believed for as long as its size, inode and time stay what they
were; otherwise its bytes are read again, and a file that has changed is gone. Locks save work only: nothing is wrong where they do nothing.
"""

import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError
from zoo.files import write_whole

SOURCE = ".source.json"
ABANDONED = 3600.0
"""Seconds without a write after which a partial file of another machine has no owner any more."""
_PARTIAL = re.compile(r"(?P<sum>[0-9a-f]+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.partial")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_dir() -> Path:
    """Where downloads are kept."""
    if own := os.environ.get("ZOO_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zoo"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Entry:
    """A model in the cache, for people.

    Args:
        name: that it was asked for by.
        folder: its bundle.
        size: in bytes.
        source: where it came from.
        files: sha256 by name of what it was made of.
    """

    name: str
    folder: Path
    size: int
    source: str
    files: dict[str, str]


class Cache:
    """The files below one folder; made when something is written.

    Args:
        root: of the cache; None takes ``cache_dir``.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_dir()
        self.blobs, self.models = self.root / "blobs", self.root / "models"

    # --- files ------------------------------------------------------------------------------------------------------------------

    def blob(self, sha256: str) -> Path | None:
        """A file by its checksum; None where it is not here, or not what it was any more (then it is removed)."""
        path = self.blobs / sha256
        try:
            now = _fingerprint(path)
        except FileNotFoundError:
            return None
        if self._seen(sha256) == now:
            return path
        if sha256_of(path) != sha256:
            self.remove(sha256)
            return None
        self._remember(sha256, now)
        return path

    def add(self, fresh: Path, sha256: str) -> Path:
        """Give a complete, checked file in ``blobs`` its name."""
        path = self.blobs / sha256
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
        self._remember(sha256, _fingerprint(path))
        return path

    def remove(self, sha256: str) -> None:
        for path in (self.blobs / f"{sha256}.seen", self.blobs / sha256):
            path.unlink(missing_ok=True)

    def _seen(self, sha256: str) -> list[int] | None:
        try:
            found = json.loads((self.blobs / f"{sha256}.seen").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # never written, or cut off: the bytes decide
            return None
        return found if isinstance(found, list) else None

    def _remember(self, sha256: str, fingerprint: list[int]) -> None:
        write_whole(self.blobs / f"{sha256}.seen", json.dumps(fingerprint))

    # --- files on their way -----------------------------------------------------------------------------------------------------

    def claim(self, checksum: str) -> Path:
        """A partial file of this process's own: one that a process left which is gone, or a new name. Renaming is what decides whose it is."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        own = self.blobs / f"{checksum}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.partial"
        left = [path for path in self._partials(checksum) if _abandoned(path)]
        for path in sorted(left, key=_size, reverse=True):
            try:
                path.rename(own)
            except FileNotFoundError:  # another process was faster
                continue
            break
        return own

    def release(self, own: Path) -> None:
        """Whoever comes next may go on with this partial file; an empty one is removed. Nothing is done where it has become a file by now."""
        if _size(own):
            own.rename(own.with_name(re.sub(r"-\d+-", "-0-", own.name)))
        else:
            own.unlink(missing_ok=True)

    def growing(self, checksum: str, within: float) -> bool:
        """Whether some other process has written to a partial file of this checksum within so many seconds."""
        newest = 0.0
        for path in self._partials(checksum):
            try:
                newest = max(newest, path.stat().st_mtime)
            except FileNotFoundError:
                return True  # just finished, or claimed
        return time.time() - newest < within

    def _partials(self, checksum: str) -> Iterator[Path]:
        yield from self.blobs.glob(f"{checksum}.*.partial")

    # --- models -----------------------------------------------------------------------------------------------------------------

    def model(self, name: str, key: str) -> Path:
        """The folder of a model; it may not be there yet.

        Args:
            name: for people.
            key: of everything that it is made of.
        """
        plain = re.sub(r"[^\w.-]+", "_", name).strip("._")[:80] or "model"
        return self.models / f"{plain}-{key[:12]}"

    def entries(self) -> list[Entry]:
        """The models that are here."""
        found = []
        for file in sorted(self.models.glob(f"*/{SOURCE}")):
            told = read_source(file)
            size = sum(_size(path) for path in file.parent.rglob("*") if path.is_file())
            found.append(Entry(str(told["name"]), file.parent, size, str(told["source"]), dict(told["files"])))
        return found

    def check_model(self, folder: Path) -> None:
        """Whether a model's files are still what was written; cheap where their sizes, inodes and times have not changed.

        Raises:
            CheckpointError: naming the file that is another, or missing.
        """
        told = read_source(folder / SOURCE)
        seen = told["seen"]
        changed = False
        for name, sha256 in told["written"].items():
            path = folder / name
            try:
                now = _fingerprint(path)
            except FileNotFoundError:
                raise CheckpointError(f"{path}: missing from the cache\n  way out: zoo cache verify, then ask for the model again") from None
            if seen.get(name) == now:
                continue
            if sha256_of(path) != sha256:
                raise CheckpointError(f"{path}: has changed since it was written to the cache\n  way out: zoo cache verify, then ask for the model again")
            seen[name], changed = now, True
        if changed:
            write_whole(folder / SOURCE, json.dumps(told, indent=1))

    # --- for `zoo cache` --------------------------------------------------------------------------------------------------------

    def verify(self) -> tuple[list[Path], list[str]]:
        """Read every byte; what is not what it was is removed. What was right, and what was wrong with the rest."""
        right: list[Path] = []
        wrong: list[str] = []
        for path in self.all_blobs():
            if sha256_of(path) == path.name:
                right.append(path)
                continue
            wrong.append(f"{path}: its content has another checksum; removed")
            self.remove(path.name)
        for entry in self.entries():
            told = read_source(entry.folder / SOURCE)
            damaged = [name for name, sha256 in told["written"].items() if not (entry.folder / name).is_file() or sha256_of(entry.folder / name) != sha256]
            if damaged:
                wrong.append(f"{entry.folder}: {', '.join(damaged)} changed or missing; removed")
                remove_folder(entry.folder)
            else:
                right.append(entry.folder)
        return right, wrong

    def prune(self, names: list[str] | None = None) -> tuple[int, int]:
        """Remove models (by name, or none), then files that no model is made of, and what broken-off downloads left. How many files, how many bytes."""
        count = size = 0
        for entry in self.entries():
            if names is not None and entry.name in names:
                count, size = count + 1, size + entry.size
                remove_folder(entry.folder)
        used = {sha256 for entry in self.entries() for sha256 in entry.files.values()}
        for path in sorted(self.blobs.glob("*")):
            unused = path.name.partition(".")[0] not in used
            partial = _PARTIAL.fullmatch(path.name) is not None
            if (partial and _abandoned(path)) or (not partial and unused):
                count, size = count + (path.suffix == ""), size + _size(path)
                path.unlink(missing_ok=True)
        return count, size

    def all_blobs(self) -> list[Path]:
        return sorted(path for path in self.blobs.glob("*") if _SHA256.fullmatch(path.name))


def write_source(folder: Path, *, name: str, source: str, files: dict[str, str]) -> None:
    """Record what a model's folder holds and what it was made of; the last file that is written into it."""
    written = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SOURCE}
    seen = {path: _fingerprint(folder / path) for path in written}
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


def remove_folder(folder: Path) -> None:
    """Gone at once for everybody else: it loses its name first."""
    import shutil

    aside = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _fingerprint(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_ino, state.st_mtime_ns]


def _host() -> str:
    """Of this machine: process numbers mean something on their own machine only."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _abandoned(path: Path) -> bool:
    """Whether nobody writes to a partial file any more."""
    found = _PARTIAL.fullmatch(path.name)
    if found is None:
        return False
    if int(found["pid"]) == 0:
        return True
    if found["host"] == _host():
        return not _alive(int(found["pid"]))
    try:
        return time.time() - path.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
