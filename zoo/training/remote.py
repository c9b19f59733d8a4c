"""A run's checkpoints in a store, as its processes write and read them."""

import hashlib
import json
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.parallel.sharding import Piece
from zoo.training.checkpoint import Checkpoint, open_checkpoint
from zoo.training.marker import DONE, FAILED, MARKER, STATE, Files, files_of_others, marker_text, step_name
from zoo.training.store import Store, StoreError, attached, has, told
from zoo.training.tensors import write_stream

FETCHED, FETCHING = ".fetched-", ".fetching-"


@dataclass(frozen=True)
class Remote:
    """Checkpoints in a store.

    Args:
        store: where.
        run_dir: of the run; what is downloaded lies in its folder ``checkpoints`` for as long as it is read.
        session: a word that this start of the job has to itself: what an earlier one left in the store, or on disk, is never taken for its own.
    """

    store: Store
    run_dir: Path
    session: str

    @property
    def scratch(self) -> Path:
        return self.run_dir / "checkpoints"

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def open(self, step: int, parts: Collection[str] | None = None, timeout: float = 600) -> Checkpoint:
        """Download and verify a checkpoint; of the processes that share a file system one does it for all.

        Args:
            step: of the checkpoint.
            parts: tensors that are needed; None for all, () for the state alone.
            timeout: seconds that a process waits for the one that downloads.

        Raises:
            CheckpointError: where it is not complete, or damaged.
            StoreError: where the store does not answer, or another process does not get to the end of it.
        """
        what = "all" if parts is None else "-".join(["state", *sorted(parts)])
        name = f"{step_name(step)}-{self.session}-{what}"
        folder, fresh = self.scratch / f"{FETCHED}{name}", self.scratch / f"{FETCHING}{name}"
        self.scratch.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        while not folder.exists():
            try:
                fresh.mkdir()
            except FileExistsError:  # another process is at it
                if time.monotonic() > deadline:
                    raise StoreError(f"{self.store}/{step_name(step)}: was not downloaded within {timeout:.0f} s") from None
                time.sleep(0.05)
                continue
            if folder.exists():  # it has just got to its end
                fresh.rmdir()
                break
            try:
                self.store.fetch(step, fresh, parts)
                fresh.rename(folder)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
        return open_checkpoint(folder, verify=False, parts=parts, place=f"{self.store}/{step_name(step)}")  # every byte has been compared

    def release(self) -> None:
        """What was downloaded is not needed any more. Tensors that are mapped from it live on."""
        for folder in self.scratch.glob(f"{FETCHED}*"):
            shutil.rmtree(folder, ignore_errors=True)  # another process on this machine does the same

    # --- writing ----------------------------------------------------------------------------------------------------------------

    def write(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: str,
        *,
        pieces: Mapping[str, Piece],
        rank: int,
        writers: int,
        number: int,
        timeout: float,
    ) -> None:
        """Send one process's part; the first one waits for the others, sends the rest and, when the store has all of it, the marker.

        Args:
            step: of the checkpoint.
            tensors: of each part.
            state: JSON.
            pieces: of the parameters that are sharded, by name.
            rank: of this process among those that write.
            writers: how many.
            number: of this save among those of this start, the same for all writers.
            timeout: seconds that the first one waits for the others.
        """
        system, root = self.store.connect()
        folder, mine = f"{root}/{step_name(step)}", f"{self.session}-{number}"
        try:
            make_folder(system, folder)
            if not rank and has(system, f"{folder}/{MARKER}"):  # of a step that the run went back behind
                system.rm_file(f"{folder}/{MARKER}")
            written: Files = {}
            suffix = f".{rank:05d}-of-{writers:05d}" if writers > 1 else ""
            for part, named in tensors.items():
                with system.open(f"{folder}/{part}{suffix}.safetensors", "wb") as file:
                    written[f"{part}{suffix}.safetensors"] = write_stream(file, named, pieces)
            if rank:
                system.pipe_file(f"{folder}/{DONE}{rank}.{mine}", json.dumps(written).encode())
                return
            written |= files_of_others(writers, partial(_read, system, folder, mine), timeout=timeout, pause=1)
            written[STATE] = send(system, f"{folder}/{STATE}", state.encode())
            for name, path in attached(self.run_dir).items():
                system.makedirs(f"{folder}/{name}".rpartition("/")[0], exist_ok=True)
                written[name] = send(system, f"{folder}/{name}", path.read_bytes())
            check_sent(system, folder, written)
            system.pipe_file(f"{folder}/{MARKER}", marker_text(step, written).encode())
        except BaseException as error:
            if rank:
                with suppress(Exception):  # the store may be what has failed; the first process then waits in vain, and says so
                    system.pipe_file(f"{folder}/{FAILED}{rank}.{mine}", told(error).encode())
            raise
        for other in range(1, writers):
            with suppress(Exception):  # the checkpoint is complete; what is left here goes with it, and no other start reads it
                system.rm_file(f"{folder}/{DONE}{other}.{mine}")

    def retire(self, keep_last: int, kept: Collection[int | None]) -> None:
        for step in self.store.steps()[:-keep_last]:
            if step not in kept:
                self.store.remove(step)


def make_folder(system: Any, path: str) -> None:
    """Several processes may be at it: most protocols look first and then make, and fail where another was quicker."""
    try:
        system.makedirs(path, exist_ok=True)
    except Exception:
        if not has(system, path):
            raise


def send(system: Any, path: str, data: bytes) -> tuple[int, str]:
    """A small file; its size and sha256."""
    system.pipe_file(path, data)
    return len(data), hashlib.sha256(data).hexdigest()


def check_sent(system: Any, folder: str, files: Files) -> None:
    """What the store says that it has, before the marker is written.

    Raises:
        OSError: for a file of another size.
    """
    system.invalidate_cache()
    for name, (size, _) in files.items():
        found = system.info(f"{folder}/{name}")["size"]
        if found != size:
            raise OSError(f"{name}: the store has {found} bytes, {size} were sent")


def _read(system: Any, folder: str, mine: str, name: str) -> bytes | None:
    """What another process, which may be on another machine, has left for this save."""
    path = f"{folder}/{name}.{mine}"
    return bytes(system.cat_file(path)) if has(system, path) else None
