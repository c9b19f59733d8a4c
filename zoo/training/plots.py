"""Pictures of a run, drawn from its log at the end: loss, learning rate, metrics, confusion matrix. Matplotlib is imported when called."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.training.logging import LOG_FILE, as_number, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers, and in print.
COLOURS = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73", "other": "#555555"}
SMOOTH_FROM = 60
"""Points above which the training curve is drawn pale, with its running mean on top."""
NAMED_CLASSES, NUMBERED_CLASSES = 40, 20

Series = tuple[list[int], list[float]]


def plot_run(run_dir: Path, *, tables: Mapping[str, Any] | None = None, title: str = "") -> list[Path]:
    """Draw whatever the log and the tables hold into ``RUN/plots``.

    Args:
        run_dir: of the run.
        tables: by name; every ``.../confusion`` (rows are true classes) becomes a picture, with the names in ``.../labels``.
        title: the run's name.

    Returns:
        The files, PNG.
    """
    folder = run_dir / "plots"
    folder.mkdir(exist_ok=True)
    series = collect(read_rows(run_dir / LOG_FILE))
    written = []
    losses = {name: points for name, points in series.items() if name.endswith("/loss")}
    if losses:
        written.append(_save(_curves({"loss": losses}, f"{title}: loss" if title else "loss"), folder / "loss.png"))
    if "lr" in series:
        written.append(
            _save(_curves({"learning rate": {"lr": series["lr"]}}, f"{title}: learning rate" if title else "learning rate"), folder / "learning_rate.png")
        )
    metrics: dict[str, dict[str, Series]] = {}
    for name, points in series.items():
        if "/" in name and not name.endswith("/loss") and name.split("/", 1)[0] in COLOURS:
            metrics.setdefault(name.split("/", 1)[1], {})[name] = points
    metrics = {name: lines for name, lines in metrics.items() if any(not line.startswith("train/") for line in lines)}  # not rates and norms
    if metrics:
        written.append(_save(_curves(metrics, f"{title}: metrics" if title else ""), folder / "metrics.png"))
    for name, table in (tables or {}).items():
        prefix, _, last = name.rpartition("/")
        if last == "confusion" and is_square(table):
            labels = [str(label) for label in tables.get(f"{prefix}/labels" if prefix else "labels", range(len(table)))] if tables else []
            title = f"confusion, {prefix} split" if prefix else "confusion"
            written.append(_save(_confusion(table, labels, title), folder / f"{name.replace('/', '_')}.png"))
    return written


def collect(rows: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """Column -> steps and values; what is no finite number is left out."""
    series: dict[str, Series] = {}
    for row in rows:
        for name, logged in row.items():
            value = as_number(logged)
            if name not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(float(value))
    return series


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of up to ``window`` values around each."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    half = window // 2
    ends = [(max(0, place - half), min(len(values), place + half + 1)) for place in range(len(values))]
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in ends]


def _curves(panels: Mapping[str, Mapping[str, Series]], title: str) -> "Figure":
    """One panel a quantity, the splits as lines in it."""
    from matplotlib.figure import Figure

    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns if columns > 1 else 7, 3.4 * rows if columns > 1 else 4.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, lines) in zip(grid.flat[: len(panels)], panels.items(), strict=True):
        _panel(axes, name, lines)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _panel(axes: "Axes", name: str, lines: Mapping[str, Series]) -> None:
    for line, (steps, values) in lines.items():
        split = line.split("/", 1)[0] if "/" in line else "other"
        colour, label = COLOURS.get(split, COLOURS["other"]), split if "/" in line else line
        if split != "train":
            marker = "o" if len(values) <= 40 else None
            axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, linewidth=1.6, label=f"{label} (last {values[-1]:.4g})")
        elif len(values) >= SMOOTH_FROM:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, running_mean(values, max(5, len(values) // 25)), color=colour, linewidth=1.8, label=f"{label} (running mean)")
        else:
            axes.plot(steps, values, color=colour, linewidth=1.4, label=label)
    everything = [value for _, values in lines.values() for value in values]
    if name == "loss" and min(everything) > 0 and max(everything) / min(everything) > 50:
        axes.set_yscale("log")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(name)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1 or any(not line.startswith("lr") for line in lines):
        axes.legend(frameon=False, fontsize=8)


def _confusion(counts: Sequence[Sequence[float]], labels: Sequence[str], title: str) -> "Figure":
    """Rows are true classes; the colour is the share of the row, the number the count."""
    from matplotlib.figure import Figure

    count = len(counts)
    shares = [[value / sum(row) if sum(row) else 0.0 for value in row] for row in counts]
    side = min(14.0, max(4.5, 2.2 + 0.42 * count))
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, label="share of the true class", fraction=0.046, pad=0.03)
    right = sum(counts[place][place] for place in range(count)) / max(1, sum(map(sum, counts)))
    axes.set_title(f"{title}: {right:.1%} right", fontsize=11)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= NAMED_CLASSES:
        short = [label if len(label) <= 18 else label[:17] + "…" for label in labels]
        slanted = max(map(len, short)) > 3
        axes.set_xticks(range(count), short, rotation=45 if slanted else 0, ha="right" if slanted else "center", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(count), short, fontsize=8)
    if count <= NUMBERED_CLASSES:
        for row, values in enumerate(counts):
            for column, value in enumerate(values):
                if value:
                    axes.annotate(
                        f"{value:.0f}", (column, row), ha="center", va="center", fontsize=7, color="white" if shares[row][column] > 0.55 else "#333333"
                    )
    return figure


def is_square(table: Any) -> bool:
    """Counts of classes against classes; multi-label figures have another form."""
    return (
        isinstance(table, list) and len(table) > 1 and all(isinstance(row, list) and len(row) == len(table) and not isinstance(row[0], list) for row in table)
    )


def _save(figure: "Figure", path: Path) -> Path:
    figure.savefig(path, dpi=130)
    return path
