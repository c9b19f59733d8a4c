"""What makes a directory, here or in a store, a checkpoint: a marker that is written last, with the size and sha256 of every file. Imports no torch."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from zoo.errors import CheckpointError

FORMAT = 1
MARKER = "complete.json"
STATE = "state.json"
RUN = "run"
"""Folder of a checkpoint in a store that holds what a run needs besides: its config, processor and log."""
STEP = re.compile(r"step_(\d{8,})")

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
