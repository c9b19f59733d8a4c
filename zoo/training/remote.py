"""A run's checkpoints in a store, as its processes write and read them."""

import hashlib
import json
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import CheckpointError
from zoo.parallel.sharding import Piece
from zoo.training.checkpoint import DONE, FAILED, Checkpoint, open_checkpoint
from zoo.training.marker import MARKER, STATE, Files, marker_text, step_name
from zoo.training.store import Store, attached, told
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
            parts: tensors that are needed; None for all.
            timeout: seconds that a process waits for the one that downloads.

        Raises:
            CheckpointError: where it is not complete, or damaged.
        """
        name = f"{step_name(step)}-{self.session}" + "".join(f"-{part}" for part in sorted(parts or ()))
        folder, fresh = self.scratch / f"{FETCHED}{name}", self.scratch / f"{FETCHING}{name}"
        self.scratch.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        while not folder.exists():
            try:
                fresh.mkdir()
            except FileExistsError:  # another process is at it
                if time.monotonic() > deadline:
                    raise CheckpointError(f"{self.store}/{step_name(step)}: was not downloaded within {timeout:.0f} s") from None
                time.sleep(0.05)
                continue
            try:
                self.store.fetch(step, fresh, parts)
                fresh.rename(folder)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
        return open_checkpoint(folder, verify=False, parts=parts)  # every byte has been compared

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
            system.makedirs(folder, exist_ok=True)
            if not rank and system.exists(f"{folder}/{MARKER}"):  # of a step that the run went back behind
                system.rm_file(f"{folder}/{MARKER}")
            written: Files = {}
            suffix = f".{rank:05d}-of-{writers:05d}" if writers > 1 else ""
            for part, named in tensors.items():
                with system.open(f"{folder}/{part}{suffix}.safetensors", "wb") as file:
                    written[f"{part}{suffix}.safetensors"] = write_stream(file, named, pieces)
            if rank:
                system.pipe_file(f"{folder}/{DONE}{rank}.{mine}", json.dumps(written).encode())
                return
            for other in range(1, writers):
                written |= _written_by(system, folder, other, mine, timeout)
            written[STATE] = send(system, f"{folder}/{STATE}", state.encode())
            for name, path in attached(self.run_dir).items():
                system.makedirs(f"{folder}/{name}".rpartition("/")[0], exist_ok=True)
                written[name] = send(system, f"{folder}/{name}", path.read_bytes())
            self.store.check_written(system, folder, written)
            system.pipe_file(f"{folder}/{MARKER}", marker_text(step, written).encode())
            for other in range(1, writers):
                system.rm_file(f"{folder}/{DONE}{other}.{mine}")
        except BaseException as error:
            if rank:
                with suppress(Exception):  # the store may be what has failed; the first process then waits in vain, and says so
                    system.pipe_file(f"{folder}/{FAILED}{rank}.{mine}", told(error).encode())
            raise

    def retire(self, keep_last: int, kept: Collection[int | None]) -> None:
        for step in self.store.steps()[:-keep_last]:
            if step not in kept:
                self.store.remove(step)


def send(system: Any, path: str, data: bytes) -> tuple[int, str]:
    """A small file; its size and sha256."""
    system.pipe_file(path, data)
    return len(data), hashlib.sha256(data).hexdigest()


def _written_by(system: Any, folder: str, rank: int, mine: str, timeout: float) -> Files:
    """What another process has sent, once it says so in the store: it may be on another machine."""
    deadline, pause = time.monotonic() + timeout, 0.02
    while True:
        system.invalidate_cache()
        if system.exists(f"{folder}/{DONE}{rank}.{mine}"):
            with suppress(ValueError):  # not all of it is there yet
                found = json.loads(system.cat_file(f"{folder}/{DONE}{rank}.{mine}"))
                return {name: (size, sha256) for name, (size, sha256) in found.items()}
        if system.exists(f"{folder}/{FAILED}{rank}.{mine}"):
            raise OSError(f"rank {rank}: {system.cat_file(f'{folder}/{FAILED}{rank}.{mine}').decode()}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank {rank} has not sent its part within {timeout:.0f} s")
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)
