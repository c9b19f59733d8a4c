"""Checkpoints: directories of safetensors and JSON that are there completely or not at all.

    checkpoints/step_00000120/   model.safetensors  optimizer.safetensors  ema.safetensors  state.json  complete.json

Where processes hold parts of the tensors, each writes its own, ``model.00002-of-00004.safetensors``, with the place of each part in the file's header;
whoever loads takes what it needs of each file, so that a checkpoint goes on in any other layout. With ``trainer.checkpoint_to`` all of this lies at
a URL (``zoo.training.store``); nothing on this side of it changes.

The state is copied aside, which is all that a training step waits for, and written by a thread into a hidden directory: every file is
forced to disk, then ``complete.json`` with the size and sha256 of each, then the directory gets its name. A directory without that marker,
or that does not match it, is not used. No pickle is written or read, which torch's own distributed checkpoints do for their index.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import __version__
from zoo.errors import CheckpointError
from zoo.parallel.sharding import Piece
from zoo.training.marker import DONE, FAILED, MARKER, STATE, STEP, files_of_others, marker_text, read_marker, step_name, wanted
from zoo.training.tensors import read_pieces, write_tensors

if TYPE_CHECKING:
    from zoo.training.remote import Remote


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been verified.

    Args:
        folder: where its files are now.
        step: after which it was made.
        files: those of its names that were asked for.
        state: JSON values.
        place: where it lies, for people: in a store another than where its files are now.
    """

    folder: Path
    step: int
    files: frozenset[str]
    state: dict[str, Any] = field(repr=False)
    place: str

    def has(self, part: str) -> bool:
        return bool(self._files(part))

    def tensors(self, part: str, pieces: Mapping[str, Piece] | None = None) -> dict[str, Tensor]:
        """``model``, ``optimizer`` or ``ema``.

        Args:
            part: which.
            pieces: what this process holds of parameters that are sharded, by name; whole tensors where nothing is said.
        """
        return read_pieces(self._files(part), pieces or {})

    def _files(self, part: str) -> list[Path]:
        return [self.folder / name for name in sorted(self.files) if re.fullmatch(rf"{part}(\.\d+-of-\d+)?\.safetensors", name)]


def open_checkpoint(folder: Path, *, verify: bool = True, parts: Collection[str] | None = None, place: str | None = None) -> Checkpoint:
    """Verify every byte against the marker.

    Args:
        folder: of the checkpoint.
        verify: hash the files; no, where another process of the job has just done it.
        parts: tensors that are needed, of "model", "optimizer" and "ema"; None for all, () for the state alone.
        place: for people; None for the folder.

    Raises:
        CheckpointError: with the file that is missing, cut short or changed.
    """
    if not (folder / MARKER).is_file():
        raise CheckpointError(f"{folder}: not complete (it has no {MARKER})")
    step, listed = read_marker((folder / MARKER).read_bytes(), str(folder))
    files = {name: entry for name, entry in listed.items() if wanted(name, parts)}
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, {size} were written")
        if verify and file_digest(path) != sha256:
            raise CheckpointError(f"{path}: its contents have changed since it was written")
    return Checkpoint(folder, step, frozenset(files), json.loads((folder / STATE).read_text()), place or str(folder))


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def step_folders(folder: Path) -> dict[int, Path]:
    """Directories with a checkpoint's name by step, oldest first."""
    found = {int(match[1]): path for path in folder.glob("step_*") if (match := STEP.fullmatch(path.name))}
    return dict(sorted(found.items()))


def newest_checkpoint(folder: Path, until: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint, of step ``until`` at the latest, and a message for each newer one that is damaged."""
    folders = step_folders(folder)
    return newest_of(folders, lambda step: open_checkpoint(folders[step]), until)


def newest_of(steps: Iterable[int], open_one: Callable[[int], Checkpoint], until: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """As ``newest_checkpoint``, of steps that are opened by ``open_one``."""
    messages = []
    for step in sorted((step for step in steps if until is None or step <= until), reverse=True):
        try:
            checkpoint = open_one(step)
        except CheckpointError as error:
            messages.append(f"checkpoint {step_name(step)} is damaged and not used: {error}")
            continue
        return checkpoint, [f"{message}; going on from {step_name(checkpoint.step)}" for message in messages]
    return None, messages


class Checkpointer:
    """Writes checkpoints beside the training.

    Args:
        folder: ``checkpoints`` of the run.
        keep_last: newest ones to keep; the best is kept besides.
        rank: of this process among those that write.
        writers: processes that write: one, or all where each holds parts.
        timeout: seconds that the first process waits for the files of the others.
        remote: where they are, if not in ``folder``.
    """

    def __init__(self, folder: Path, keep_last: int, *, rank: int = 0, writers: int = 1, timeout: float = 600, remote: "Remote | None" = None) -> None:
        self.folder, self.keep_last, self.rank, self.writers, self.timeout, self.remote = folder, keep_last, rank, writers, timeout, remote
        self._saves = 0
        self._last: int | None = None
        self._aside: dict[str, dict[str, Tensor]] = {}
        self._writer: threading.Thread | None = None
        self._error: CheckpointError | None = None

    @property
    def where(self) -> str:
        """Of all of them, for people."""
        return str(self.folder if self.remote is None else self.remote.store)

    def clean(self) -> None:
        """Remove what a killed process left half-written. Only before the run starts, by the rank that writes."""
        for path in self.folder.glob(".*"):
            if path.name.startswith((".new-", ".old-", ".fetch")):
                shutil.rmtree(path)
        if self.remote is not None:
            self.remote.store.clean()

    def newest(self, until: int | None = None) -> tuple[Checkpoint | None, list[str]]:
        """As ``newest_checkpoint``, wherever they are."""
        if self.remote is None:
            return newest_checkpoint(self.folder, until)
        found = newest_of(self.remote.store.steps(), partial(self.remote.open, timeout=self.timeout), until)
        self._last = found[0].step if found[0] is not None else self._last
        return found

    def open(self, step: int, *, verify: bool = True, parts: Collection[str] | None = None) -> Checkpoint:
        """The one of a step.

        Args:
            step: that is known to have one.
            verify: hash the files; whatever is downloaded is hashed besides.
            parts: as for ``open_checkpoint``.
        """
        if self.remote is None:
            return open_checkpoint(self.folder / step_name(step), verify=verify, parts=parts)
        return self.remote.open(step, parts, self.timeout)

    def place(self, step: int) -> str:
        """For people."""
        return f"{self.where}/{step_name(step)}"

    def release(self) -> None:
        """What was opened has been read, by all processes."""
        if self.remote is not None:
            self.remote.release()

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        best: int | None,
        anchor: int | None = None,
        pieces: Mapping[str, Piece] | None = None,
    ) -> None:
        """Copy the state aside and return; raises what went wrong with the checkpoint before.

        Args:
            step: of the checkpoint; every writer saves the same ones.
            tensors: of each part, as far as this process holds and writes them.
            state: JSON values; the first writer's count.
            best: step of the best checkpoint so far, which is kept.
            anchor: step of another one that is kept, to roll back to.
            pieces: of the parameters that are sharded, by name.
        """
        self.wait()
        self._saves += 1
        self._aside = {part: self._copy(self._aside.get(part, {}), named) for part, named in tensors.items()}
        content = json.dumps({**state, "versions": {"zoo": __version__, "torch": torch.__version__}}, indent=1)
        # Not a daemon: an interpreter that ends waits for a checkpoint that has been begun.
        self._writer = threading.Thread(target=self._write, args=(step, content, {best, anchor}, dict(pieces or {})), name=f"checkpoint-{step}")
        self._writer.start()

    def wait(self) -> None:
        """Until the last checkpoint is on disk.

        Raises:
            CheckpointError: it could not be written, and those before it are intact; or it is complete, and older ones could not be removed.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @staticmethod
    def _copy(aside: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Into the memory of the copy before where it fits: fresh memory costs several times the copy."""
        copies = {}
        for name, tensor in named.items():
            before = aside.get(name)
            if before is None or before.shape != tensor.shape or before.dtype != tensor.dtype:
                before = torch.empty(tensor.shape, dtype=tensor.dtype)
            copies[name] = before.copy_(tensor.detach())
        return copies

    def _write(self, step: int, state: str, kept: set[int | None], pieces: dict[str, Piece]) -> None:
        try:
            if self.remote is None:
                self._write_here(step, state, pieces)
            else:
                place: dict[str, Any] = {"rank": self.rank, "writers": self.writers, "number": self._saves, "timeout": self.timeout}
                self.remote.write(step, self._aside, state, pieces=pieces, **place)
        except Exception as error:  # noqa: BLE001 - handed to the training thread, which raises it
            mend = "make room" if self.remote is None else "mend the store"
            self._fail(f"the checkpoint could not be written ({error})\n  {self._complete()}; {mend}, then go on", error)
            return
        if self.rank:  # whether it is complete knows the first one
            return
        self._last = step
        try:
            self._retire(kept)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(f"{step_name(step)} is complete, but older ones could not be removed ({error})\n  once they can be, go on", error)

    def _fail(self, problem: str, error: Exception) -> None:
        """What ``wait`` raises."""
        self._error = CheckpointError(f"{self.where}: {problem} with: zoo train resume={self.folder.parent}")
        self._error.__cause__ = error

    def _complete(self) -> str:
        """What is known to be complete without asking a store that has just failed."""
        if self.remote is not None and self.rank:
            return "those before it are as they were"
        last = self._last if self.remote is not None else max(step_folders(self.folder), default=None)
        return f"the last complete one is {step_name(last) if last is not None else 'none'}"

    def _write_here(self, step: int, state: str, pieces: dict[str, Piece]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        target, fresh = self.folder / step_name(step), self.folder / f".new-{step_name(step)}"
        if self.writers == 1:
            shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(exist_ok=True)  # several writers: whoever comes first; what a killed run left is gone since the start
        try:
            suffix = f".{self.rank:05d}-of-{self.writers:05d}" if self.writers > 1 else ""
            written = {name: write_tensors(fresh / name, named, pieces) for part, named in self._aside.items() for name in [f"{part}{suffix}.safetensors"]}
            if self.rank:
                write_text(fresh / f"{DONE}{self.rank}.part", json.dumps(written))
                (fresh / f"{DONE}{self.rank}.part").rename(fresh / f"{DONE}{self.rank}")
                return
            written |= files_of_others(self.writers, partial(_read, fresh), timeout=self.timeout, pause=0.02)
            for other in range(1, self.writers):
                (fresh / f"{DONE}{other}").unlink()
            written[STATE] = write_text(fresh / STATE, state)
            write_text(fresh / MARKER, marker_text(step, written))
            sync_folder(fresh)
            if target.exists():  # a damaged one that the run went back behind
                discard(target)
            fresh.rename(target)
            sync_folder(self.folder)
        except BaseException as error:
            if self.rank:
                (fresh / f"{FAILED}{self.rank}").write_text(str(error), encoding="utf-8")
            else:
                shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _retire(self, kept: set[int | None]) -> None:
        if self.remote is not None:
            self.remote.retire(self.keep_last, kept)
            return
        folders = step_folders(self.folder)
        for step in list(folders)[: -self.keep_last]:
            if step not in kept:
                discard(folders[step])


def _read(fresh: Path, name: str) -> bytes | None:
    """What another writer has left for this save."""
    return (fresh / name).read_bytes() if (fresh / name).exists() else None


def discard(folder: Path) -> None:
    """Loses its name first, so that one that is half gone is never taken for a checkpoint."""
    aside = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def write_text(path: Path, content: str) -> tuple[int, str]:
    """Force a small file to disk; its size and sha256."""
    data = content.encode()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(data), hashlib.sha256(data).hexdigest()


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
