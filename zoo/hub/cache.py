"""What was downloaded: files by the checksum of their content, and the models that were made of them. Imports neither torch nor a network library.

    $ZOO_CACHE, else $XDG_CACHE_HOME/zoo, else ~/.cache/zoo
      blobs/<sha256>          a file, checked when it arrived
      blobs/<sha256>.seen     size, inode and time that it had then
      blobs/<sha256>.from     the source that gave it
      blobs/<sum>.name        sha256 of what came by another checksum
      blobs/<sha256>.TOKEN.wrong    what it has become, on its way out
      blobs/<sum>.HOST-PID-TOKEN.partial    what one process has of a file so far
      models/<name>-<key>/    a bundle, with .source.json: what it was made of

A file under its checksum was complete and right when it got that name. It is believed for as long as its size, inode and time stay what they
were; otherwise its bytes are read again, and a file that has changed is gone. Locks save work only: nothing is wrong where they do nothing.
"""

import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zoo.errors import CheckpointError
from zoo.files import home, write_whole
from zoo.hub.owners import ABANDONED, PARTIAL, abandoned, age, bytes_at, host, released
from zoo.hub.source import SOURCE, fingerprint, read_source, sha256_of

RECENT = 600.0
"""Seconds for which a file that no model is made of may be part of one that is about to be written."""
WRONG = ".wrong"
"""Ending of a file on its way out."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_dir() -> Path:
    """Where downloads are kept."""
    if own := os.environ.get("ZOO_CACHE"):
        return home(own)
    return home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "zoo"


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


class Pruned(NamedTuple):
    """What ``Cache.prune`` has done.

    Args:
        files: that were removed; a model counts as one.
        size: of them, in bytes.
        spared: files that no model is made of, and that came too recently to be removed.
    """

    files: int
    size: int
    spared: int


class Cache:
    """The files below one folder; made when something is written.

    Args:
        root: of the cache; None takes ``cache_dir``.

    Raises:
        CheckpointError: where something else than a folder is in its place.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_dir()
        self.blobs, self.models = self.root / "blobs", self.root / "models"
        for folder in (self.root, self.blobs, self.models):
            try:
                if not stat.S_ISDIR(folder.stat().st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "it is a file", str(folder))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._impossible(error) from error

    def make(self) -> None:
        """Make the folders.

        Raises:
            CheckpointError: where they cannot be.
        """
        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
            self.models.mkdir(exist_ok=True)
        except OSError as error:
            raise self._impossible(error) from error

    def _impossible(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.root}: no cache can be made there: {error}\n  way out: ZOO_CACHE=FOLDER that may be written to")

    # --- files ------------------------------------------------------------------------------------------------------------------

    def blob(self, sha256: str) -> Path | None:
        """A file by its checksum; None where it is not here, or not what it was any more (then it is removed, with a note on standard error)."""
        path = self.blobs / sha256
        right = self.right(sha256)
        if right:
            return path
        if right is False and self.expel(sha256):
            sys.stderr.write(f"{path}: damaged: its content is not what it was when it arrived; removed, and not used\n")
        return None

    def right(self, sha256: str) -> bool | None:
        """Whether a file has this checksum, None where none is here; its bytes are read where its size, inode or time have changed."""
        path = self.blobs / sha256
        try:
            now = fingerprint(path)
            if self._seen(sha256) == now:
                return True
            if sha256_of(path) != sha256:
                return False
        except FileNotFoundError:
            return None
        self._remember(sha256, now)
        return True

    def expel(self, sha256: str) -> bool:
        """Remove a file that is not what its name says, which was found before; what another process has put in its place meanwhile stays."""
        path = self.blobs / sha256
        aside = self.blobs / f"{sha256}.{secrets.token_hex(4)}{WRONG}"
        try:
            path.rename(aside)
            if sha256_of(aside) == sha256:
                aside.replace(path)
                return False
        except FileNotFoundError:  # another process was faster
            return False
        for file in (self.blobs / f"{sha256}.seen", aside):
            file.unlink(missing_ok=True)
        return True

    def add(self, fresh: Path, sha256: str) -> Path:
        """Give a complete, checked file in ``blobs`` its name; one that is here already stays, since others may be linking to it."""
        path = self.blobs / sha256
        if self.right(sha256):
            fresh.unlink(missing_ok=True)
            return path
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
        self._remember(sha256, fingerprint(path))
        return path

    def remove(self, sha256: str) -> None:
        """A file; where it came from stays noted until ``prune``."""
        for path in (self.blobs / f"{sha256}.seen", self.blobs / sha256):
            path.unlink(missing_ok=True)

    def drop(self, sums: Iterable[str]) -> None:
        """Remove files that no model here is made of, with what is noted of them; the others are left."""
        used = self._used()
        for sha256 in sums:
            if sha256 not in used:
                self.remove(sha256)
                for kind in ("from", "lock"):
                    (self.blobs / f"{sha256}.{kind}").unlink(missing_ok=True)

    def came_from(self, sha256: str) -> str | None:
        """The source that gave a file; None where nobody noted it."""
        try:
            return (self.blobs / f"{sha256}.from").read_text(encoding="utf-8").strip() or None
        except (OSError, ValueError):
            return None

    def note_source(self, sha256: str, source: str) -> None:
        with suppress(OSError):  # for people only
            write_whole(self.blobs / f"{sha256}.from", source)

    def _seen(self, sha256: str) -> list[int] | None:
        try:
            found = json.loads((self.blobs / f"{sha256}.seen").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # never written, or cut off: the bytes decide
            return None
        return found if isinstance(found, list) else None

    def _remember(self, sha256: str, fingerprint: list[int]) -> None:
        with suppress(OSError):  # a copy that may not be written to is read once more the next time
            write_whole(self.blobs / f"{sha256}.seen", json.dumps(fingerprint))

    def named(self, checksum: str) -> Path | None:
        """A file by another checksum than its sha256, if it came by that before."""
        try:
            sha256 = (self.blobs / f"{checksum}.name").read_text(encoding="ascii")
        except (OSError, ValueError):
            return None
        return self.blob(sha256) if _SHA256.fullmatch(sha256) else None

    def name(self, checksum: str, sha256: str) -> None:
        """Note that a file came by another checksum."""
        with suppress(OSError):
            write_whole(self.blobs / f"{checksum}.name", sha256)

    # --- files on their way -----------------------------------------------------------------------------------------------------

    def claim(self, checksum: str) -> Path:
        """A partial file of this process's own: what one that is gone has left, or a new name.

        What was released is renamed, which decides whose it is. What seems to be abandoned is copied: should its owner live after all, it goes on writing
        to a file that nobody else has.
        """
        self.blobs.mkdir(parents=True, exist_ok=True)
        own = self.blobs / f"{checksum}.{host()}-{os.getpid()}-{secrets.token_hex(4)}.partial"
        left = [path for path in self._partials(checksum) if abandoned(path)]
        for path in sorted(left, key=bytes_at, reverse=True):
            try:
                if released(path):
                    path.rename(own)
                else:
                    shutil.copyfile(path, own)
                    path.unlink(missing_ok=True)
            except FileNotFoundError:  # another process was faster
                continue
            break
        return own

    def release(self, own: Path) -> None:
        """Whoever comes next may go on with this partial file; an empty one is removed. Nothing is done where it has become a file by now."""
        if not bytes_at(own):
            own.unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            own.rename(own.with_name(re.sub(r"-\d+-", "-0-", own.name)))

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
        """The models that are here; those whose record is damaged are not (``damaged``)."""
        found = []
        for file in self._sources():
            try:
                told = read_source(file)
            except CheckpointError:
                continue
            size = sum(bytes_at(path) for path in file.parent.rglob("*") if path.is_file())
            found.append(Entry(str(told["name"]), file.parent, size, str(told["source"]), dict(told["files"])))
        return found

    def damaged(self) -> list[tuple[Path, str]]:
        """Folders of models whose record cannot be read, and why."""
        found = []
        for file in self._sources():
            try:
                read_source(file)
            except CheckpointError as error:
                found.append((file.parent, str(error).partition("\n")[0]))
        return found

    def _sources(self) -> list[Path]:
        """Of models that are whole; those on their way, in or out, begin with a dot."""
        return sorted(file for file in self.models.glob(f"*/{SOURCE}") if not file.parent.name.startswith("."))

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
                now = fingerprint(path)
            except FileNotFoundError:
                raise CheckpointError(f"{path}: missing from the cache\n  way out: zoo cache verify, then ask for the model again") from None
            if seen.get(name) == now:
                continue
            if sha256_of(path) != sha256:
                raise CheckpointError(f"{path}: has changed since it was written to the cache\n  way out: zoo cache verify, then ask for the model again")
            seen[name], changed = now, True
        if changed:
            with suppress(OSError):  # a copy that may not be written to is read once more the next time
                write_whole(folder / SOURCE, json.dumps(told, indent=1))

    def discard(self, folder: Path) -> None:
        """Remove a damaged model; where its files came from, which it may be the only one to know, stays noted."""
        with suppress(CheckpointError):
            told = read_source(folder / SOURCE)
            for sha256 in told["files"].values():
                if (self.blobs / sha256).exists() and self.came_from(sha256) is None:
                    self.note_source(sha256, told["source"])
        remove_folder(folder)

    # --- for `zoo cache` --------------------------------------------------------------------------------------------------------

    def verify(self) -> tuple[list[Path], list[str]]:
        """Read every byte; what is not what it was is removed. What was right, and what was wrong with the rest."""
        right: list[Path] = []
        wrong: list[str] = []
        for path in self.all_blobs():
            try:
                same = sha256_of(path) == path.name
            except FileNotFoundError:  # somebody prunes
                continue
            if same:
                right.append(path)
            elif self.expel(path.name):
                wrong.append(f"{path}: its content has another checksum; removed")
        for folder, reason in self.damaged():
            wrong.append(f"{reason}; removed")
            remove_folder(folder)
        for entry in self.entries():
            told = read_source(entry.folder / SOURCE)
            damaged = [name for name, sha256 in told["written"].items() if not (entry.folder / name).is_file() or sha256_of(entry.folder / name) != sha256]
            if damaged:
                wrong.append(f"{entry.folder}: {', '.join(damaged)} changed or missing; removed")
                self.discard(entry.folder)
            else:
                right.append(entry.folder)
        return right, wrong

    def prune(self, names: list[str] | None = None) -> Pruned:
        """Remove models (by name, or none), then files that no model is made of, and what broken-off downloads left.

        What came within the last minutes stays unless its model was named: somebody may be about to make a model of it.
        """
        count = size = spared = 0
        freed: set[str] = set()
        for entry in self.entries():
            if names is not None and entry.name in names:
                count, size = count + 1, size + entry.size
                freed.update(entry.files.values())
                remove_folder(entry.folder)
        used = self._used()
        for path in sorted(self.blobs.glob("*")):
            stem = path.name.partition(".")[0]
            if path.is_dir():
                old = age(path) > ABANDONED
            elif PARTIAL.fullmatch(path.name):
                old = abandoned(path)
            elif path.suffix == WRONG:
                old = True
            else:
                old = stem not in used and (stem in freed or age(path) > RECENT)
                spared += not old and path.name not in used and path.suffix == ""
            if old:
                count, size = count + (path.suffix == ""), size + _bytes(path)
                _remove(path)
        for path in self.models.glob(".*"):  # of processes that were killed while they wrote, or removed, a model
            if age(path) > ABANDONED:
                count, size = count + 1, size + _bytes(path)
                _remove(path)
        return Pruned(count, size, spared)

    def _used(self) -> set[str]:
        """Checksums of the files that the models here are made of."""
        return {sha256 for entry in self.entries() for sha256 in entry.files.values()}

    def all_blobs(self) -> list[Path]:
        return sorted(path for path in self.blobs.glob("*") if _SHA256.fullmatch(path.name))


def remove_folder(folder: Path) -> None:
    """Gone at once for everybody else: it loses its name first. Nothing is done where another process was faster."""
    aside = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _bytes(path: Path) -> int:
    return sum(map(bytes_at, path.rglob("*"))) if path.is_dir() else bytes_at(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
