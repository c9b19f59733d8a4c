"""What commands print: tables, JSON, errors. Answers go to standard output, everything else to standard error."""

import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, ZooError

DONE, OURS, USERS = 0, 1, 2
"""Exit codes."""

_OUTSIDE = ("zoo", "torch", "hydra", "omegaconf", "importlib", "runpy")


def say(text: str = "") -> None:
    """A part of the answer."""
    print(text)


def note(text: str) -> None:
    """For the person, not for a pipe."""
    print(text, file=sys.stderr, flush=True)


def say_json(document: Any) -> None:
    """The one document that ``--json`` gives."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def table(rows: Sequence[Sequence[Any]], heads: Sequence[str] = ()) -> str:
    """Aligned columns; the last one is as long as it likes. Numbers stand to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    columns = len(heads) or (len(cells[0]) if cells else 0)
    widths = [max([len(row[place]) for row in [*cells, *([list(heads)] if heads else [])]], default=0) for place in range(columns)]
    right = [bool(rows) and all(isinstance(row[place], int | float) and not isinstance(row[place], bool) for row in rows) for place in range(columns)]

    def line(row: Sequence[str]) -> str:
        padded = [cell.rjust(width) if on_right else cell.ljust(width) for cell, width, on_right in zip(row, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    head = [line(heads), "  ".join("-" * width for width in widths)] if heads else []
    return "\n".join([*head, *map(line, cells)])


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


@contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """With ``--json``, whatever is printed inside goes to standard error, what child processes print included."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def report(error: BaseException, *, debug: bool, as_json: bool) -> int:
    """Tell an exception, its own message first, and give the exit code."""
    users = isinstance(error, ZooError)
    if as_json:
        say_json({"error": error_tree(error)})
    if users:
        note(f"error: {error}")
        if debug:
            note("".join(traceback.format_exception(error)))
        return USERS
    note(f"error: {type(error).__name__}: {error}{_where(error)}")
    note("".join(traceback.format_exception(error)) if debug else "  the traceback: add --debug")
    return OURS


def error_tree(error: BaseException) -> dict[str, Any]:
    """An error for ``--json``."""
    tree: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, ConfigError):
        tree |= {"path": error.path, "problem": error.problem, "ways_out": list(error.ways_out), "origin": error.origin}
    return tree


def _where(error: BaseException) -> str:
    """The line that raised: the deepest one outside zoo and its libraries, or the deepest of all."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    own = [
        frame
        for frame in frames
        if not any(f"{os.sep}{name}{os.sep}" in frame.filename for name in _OUTSIDE)
        and "site-packages" not in frame.filename
        and Path(frame.filename).is_file()
    ]
    frame = (own or frames)[-1]
    return f"\n  raised at {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
