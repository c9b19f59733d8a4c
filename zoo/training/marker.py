"""What makes a directory, here or in a store, a checkpoint: a marker that is written last, with the size and sha256 of every file; and how its
writers tell the first of them, who writes the marker, that their parts are there. Imports no torch."""

import json
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from zoo.errors import CheckpointError

FORMAT = 1
MARKER = "complete.json"
STATE = "state.json"
RUN = "run"
"""Folder of a checkpoint in a store that holds what a run needs besides: its config, processor and log."""
STEP = re.compile(r"step_(\d{8,})")
DONE, FAILED = "done-", "failed-"
"""What the other writers leave for the first."""

Files = dict[str, tuple[int, str]]
"""Name -> size and sha256."""


def step_name(step: int) -> str:
    return f"step_{step:08d}"


def marker_text(step: int, written: Mapping[str, tuple[int, str]]) -> str:
    files = {name: {"size": size, "sha256": sha256} for name, (size, sha256) in written.items()}
    return json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1)


def read_marker(text: str | bytes, where: str) -> tuple[int, Files]:
    """The step, and the files.

    Args:
        text: of the marker.
        where: the checkpoint's place, for messages.

    Raises:
        CheckpointError: where it is cut short, of another format, or names files outside its folder.
    """
    try:
        marker: Any = json.loads(text)
        step, files = int(marker["step"]), {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in marker["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where}/{MARKER}: damaged ({error})") from error
    if marker.get("format") != FORMAT:
        raise CheckpointError(f"{where}: format {marker.get('format')}, this zoo reads {FORMAT}")
    for name in files:
        folder, *_ = parts = name.split("/")
        if any(part == "" or part.startswith(".") or "\\" in part for part in parts) or (len(parts) > 1 and folder != RUN):
            raise CheckpointError(f"{where}/{name}: missing (no checkpoint has a file of that name)")
    if STATE not in files:
        raise CheckpointError(f"{where}: its marker lists no {STATE}")
    return step, files


def wanted(name: str, parts: Collection[str] | None) -> bool:
    """Whether a file belongs to what is asked for.

    Args:
        name: of a file of a checkpoint.
        parts: of "model", "optimizer", "ema" and "run"; None is all tensors. The state always belongs to it.
    """
    if name.startswith(f"{RUN}/"):
        return parts is not None and RUN in parts
    return name == STATE or parts is None or name.partition(".")[0] in parts


def files_of_others(writers: int, read: Callable[[str], bytes | None], *, timeout: float, pause: float) -> Files:
    """Wait for what the other writers have written. They meet where the files are: a collective here would get between those of the training.

    Args:
        writers: processes that write, the first one included.
        read: a file that a writer leaves, by its name; None while it is not there.
        timeout: seconds for all of them.
        pause: the longest one between two looks, in seconds.

    Raises:
        OSError: what has failed there.
        TimeoutError: naming the first one that is not done.
    """
    found: Files = {}
    deadline, wait = time.monotonic() + timeout, min(0.01, pause)
    for rank in range(1, writers):
        while (files := _listed(read(f"{DONE}{rank}"))) is None:
            if (failure := read(f"{FAILED}{rank}")) is not None:
                raise OSError(f"rank {rank}: {failure.decode()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {rank} has not written its part within {timeout:.0f} s")
            time.sleep(wait)
            wait = min(pause, wait * 1.5)
        found |= files
    return found


def _listed(text: bytes | None) -> Files | None:
    with suppress(ValueError):  # a store may show a file before all of it is there
        return {name: (size, sha256) for name, (size, sha256) in json.loads(text).items()} if text is not None else None
    return None
