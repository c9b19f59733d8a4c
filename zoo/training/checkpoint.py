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
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import __version__
from zoo.errors import CheckpointError
from zoo.layers.lora import merged
from zoo.parallel.sharding import Piece
from zoo.training.marker import MARKER, STATE, STEP, Files, marker_text, read_marker, step_name, wanted
from zoo.training.store import Store, store_of
from zoo.training.tensors import read_pieces, write_tensors

if TYPE_CHECKING:
    from zoo.training.remote import Remote

DONE, FAILED = "done-", "failed-"
"""What the other writers leave for the first."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been verified."""

    folder: Path
    step: int
    files: frozenset[str]
    state: dict[str, Any] = field(repr=False)

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


def open_checkpoint(folder: Path, *, verify: bool = True, parts: Collection[str] | None = None) -> Checkpoint:
    """Verify every byte against the marker.

    Args:
        folder: of the checkpoint.
        verify: hash the files; no, where another process of the job has just done it.
        parts: tensors that are needed, of "model", "optimizer" and "ema"; None for all.

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
    return Checkpoint(folder, step, frozenset(files), json.loads((folder / STATE).read_text()))


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


def find_checkpoint(run_dir: Path, which: str = "best", store: Store | None = None) -> Checkpoint:
    """A checkpoint of a run. Where it lies in a store, what is downloaded is there for as long as the result is.

    Args:
        run_dir: of the run.
        which: best, last, or a step.
        store: that has the run's checkpoints; None looks where the run's config says.

    Raises:
        CheckpointError: with the steps that there are.
    """
    store = store or store_of(run_dir)
    if store is None:
        folders = step_folders(run_dir / "checkpoints")
        return _find(run_dir, which, list(folders), lambda step: open_checkpoint(folders[step]))
    from zoo.training.remote import Remote

    folder = Path(tempfile.mkdtemp(prefix="zoo-"))
    remote = Remote(store, folder, "find")
    try:
        found = _find(run_dir, which, store.steps(), lambda step: remote.open(step, ("model", "ema")))
    except BaseException:
        shutil.rmtree(folder)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _find(run_dir: Path, which: str, known: list[int], open_one: Callable[[int], Checkpoint]) -> Checkpoint:
    if not known:
        raise CheckpointError(f"{run_dir}: has no checkpoint yet\n  way out: zoo train resume={run_dir}")
    steps = ", ".join(map(str, known))
    if which.isdigit():
        if int(which) not in known:
            raise CheckpointError(f"{run_dir}: no checkpoint of step {which}; there are {steps} (trainer.keep_last and trainer.checkpoint_every decide)")
        return open_one(int(which))
    if which not in ("best", "last"):
        raise CheckpointError(f"--checkpoint {which}: best, last, or one of {steps}")
    newest, problems = newest_of(known, open_one)
    if newest is None:
        raise CheckpointError(f"{run_dir}: no checkpoint is complete\n" + "\n".join(f"  {problem}" for problem in problems))
    best = newest.state["progress"]["best"]
    return newest if which == "last" or best is None or best["step"] not in known else open_one(best["step"])


def published_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The averaged weights where the run kept them, as its evaluations did; what has no average (counters) is the model's own. Adapters are merged."""
    weights = checkpoint.tensors("model")
    return merged(weights | checkpoint.tensors("ema") if checkpoint.has("ema") else weights)


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
        self._error: Exception | None = None

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
        found = newest_of(self.remote.store.steps(), self.remote.open, until)
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
        return str(self.folder / step_name(step)) if self.remote is None else f"{self.remote.store}/{step_name(step)}"

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
            CheckpointError: it could not be written; those before it are intact.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            kept = list(step_folders(self.folder)) if self.remote is None else [self._last] if self._last is not None else []
            place, mend = (self.folder, "make room") if self.remote is None else (self.remote.store, "mend the store")
            raise CheckpointError(
                f"{place}: the checkpoint could not be written ({error})\n"
                f"  the last complete one is {step_name(kept[-1]) if kept else 'none'}; {mend}, then go on with: zoo train resume={self.folder.parent}"
            ) from error

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
                self._last = step
            if not self.rank:
                self._retire(kept)
        except Exception as error:  # noqa: BLE001 - handed to the training thread, which raises it
            self._error = error

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
            written |= self._others(fresh)
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

    def _others(self, fresh: Path) -> Files:
        """Wait for the other writers' files. They meet in the file system: a collective here would get between those of the training."""
        written: Files = {}
        deadline = time.monotonic() + self.timeout
        for rank in range(1, self.writers):
            done, failed = fresh / f"{DONE}{rank}", fresh / f"{FAILED}{rank}"
            while not done.exists():
                if failed.exists():
                    raise OSError(f"rank {rank}: {failed.read_text(encoding='utf-8')}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"rank {rank} has not written its part within {self.timeout:.0f} s")
                time.sleep(0.01)
            written |= {name: (size, sha256) for name, (size, sha256) in json.loads(done.read_text()).items()}
            done.unlink()
        return written

    def _retire(self, kept: set[int | None]) -> None:
        if self.remote is not None:
            self.remote.retire(self.keep_last, kept)
            return
        folders = step_folders(self.folder)
        for step in list(folders)[: -self.keep_last]:
            if step not in kept:
                discard(folders[step])


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
