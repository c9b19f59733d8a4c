"""The end of a run, for people: figures and the next commands to try, on standard error. Imports no torch."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from zoo.training.progress import clock


def closing(
    *,
    run_dir: Path,
    metrics: Mapping[str, float],
    seconds: float,
    parameters: int,
    trained: int,
    example: str = "FILE",
    bundle: Path | None = None,
    best: tuple[int, str] | None = None,
    stream: IO[str] | None = None,
) -> None:
    """A table of the final figures, then commands that go on from here.

    Args:
        run_dir: of the run.
        metrics: by full name, ``test/accuracy``.
        seconds: of training.
        parameters: of the model.
        trained: those that the optimizer had, adapters included.
        example: what `zoo predict` takes after the bundle (``zoo.inference.inputs.example``).
        bundle: the run's bundle.
        best: the step whose weights these figures are of, and the metric that chose it; None where they are the last step's.
        stream: standard error, if not given.
    """
    stream = stream or sys.stderr
    rows = table_rows(metrics)
    if stream.isatty():
        _rich_table(rows, stream)
    else:
        stream.write("".join(f"{line}\n" for line in plain_table(("metric", "validation", "test"), rows)))
    if best is not None:
        stream.write(f"\nthe figures and the bundle are of step {best[0]}, the first with the best {best[1]}\n")
    stream.write(f"\n{parameters:,} parameters, trained {trained:,}; {clock(seconds)} in training; everything is in {run_dir}\n")
    commands = next_commands(run_dir, bundle, example)
    width = max(len(command) for command, _ in commands)
    stream.write("\nnext:\n" + "".join(f"  {command:<{width}}  # {what}\n" for command, what in commands))
    stream.flush()


def stopped(*, run_dir: Path, step: int, total_steps: int, stream: IO[str] | None = None) -> None:
    """The line of a run that was asked to stop and can go on."""
    stream = stream or sys.stderr
    stream.write(f"stopped after step {step} of {total_steps}, saved; go on with: zoo train resume={quoted(run_dir)}\n")
    stream.flush()


def next_commands(run_dir: Path, bundle: Path | None, example: str) -> list[tuple[str, str]]:
    """Commands as they can be typed, each with what it does."""
    target = quoted(bundle or run_dir)
    return [
        (f"zoo predict {target} {example}", "use the model"),
        (f"zoo eval {quoted(run_dir)}", "take the figures again"),
        (f"zoo export {quoted(run_dir)} --to my_model", "a copy of the model to keep or to publish"),
        (f"zoo train rerun={quoted(run_dir)} seed=1", "the same again with another seed"),
    ]


def quoted(path: Path) -> str:
    """A path for a command line, relative where that is shorter."""
    path = path.resolve()
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(short))


def table_rows(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Metric, validation, test: the figures of a split under each other."""
    names = dict.fromkeys(name.split("/", 1)[1] for name in metrics if "/" in name)
    return [(name, *(figure(metrics.get(f"{split}/{name}")) for split in ("validation", "test"))) for name in names]  # type: ignore[misc]


def figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.6g}" if isinstance(value, int | float) else str(value)


def plain_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns by spaces: names to the left, figures to the right."""
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    return [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in [header, *rows]
    ]


def _rich_table(rows: list[tuple[str, str, str]], stream: IO[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("metric")
    table.add_column("validation", justify="right")
    table.add_column("test", justify="right", style="bold")
    for row in rows:
        table.add_row(*row)
    Console(file=stream).print(table)
