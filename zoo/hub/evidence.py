"""What a card says of a run beyond its figures: how sure they are, what they cost, and how to get them again. Imports no torch."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError, ZooError
from zoo.hub.bundle import METRICS, Bundle, open_bundle
from zoo.hub.files import read_plain_json

Z95 = 1.959963984540054
"""Of the normal distribution: 95 % lie within this many standard deviations."""


@dataclass(frozen=True)
class Interval:
    """A share, and where it lies with 95 % confidence.

    Args:
        share: of hits.
        low: of the interval.
        high: of it.
        count: how many were asked.
    """

    share: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.low:.4f} to {self.high:.4f} ({self.count:,} samples)"


def wilson(hits: int, count: int) -> Interval:
    """Wilson's score interval (1927), which holds near 0 and 1 and for few samples as well."""
    share = hits / count
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    half = Z95 / (1 + Z95**2 / count) * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), count)


def accuracies(tables: Mapping[str, Any]) -> dict[str, Interval]:
    """Intervals of the accuracies whose confusion matrices are known, by the figure's name."""
    found = {}
    for name, matrix in tables.items():
        split, _, table = name.rpartition("/")
        if table == "confusion" and is_square(matrix) and (count := sum(map(sum, matrix))):
            found[f"{split}/accuracy"] = wilson(sum(matrix[place][place] for place in range(len(matrix))), count)
    return found


def is_square(table: Any) -> bool:
    """Counts of classes against classes. Several labels a sample have a table of yes and no each, which does not tell how many samples are right."""
    return isinstance(table, list) and all(
        isinstance(row, list) and len(row) == len(table) and all(isinstance(value, int | float) for value in row) for row in table
    )


def standard_errors(tables: Mapping[str, Any]) -> dict[str, tuple[float, int]]:
    """Standard error of a figure, and how many units it is over, where a head tells them."""
    found = {}
    for name, table in tables.items():
        split, _, last = name.rpartition("/")
        if last == "standard_error" and isinstance(table, dict) and len(table) == 2:
            (figure, error), (_, count) = table.items()
            found[f"{split}/{figure}"] = float(error), int(count)
    return found


@dataclass(frozen=True)
class Evidence:
    """What is on record of a finished run.

    Args:
        run: its directory.
        bundle: what it published.
        command: that trained it.
        seed: of it.
        seconds: in training.
        environment: versions, device, commit.
        intervals: of its accuracies.
        errors: standard errors of other figures.
        plots: pictures in its directory.
    """

    run: Path
    bundle: Bundle
    command: str
    seed: int
    seconds: float
    environment: dict[str, Any]
    intervals: dict[str, Interval] = field(default_factory=dict)
    errors: dict[str, tuple[float, int]] = field(default_factory=dict)
    plots: tuple[Path, ...] = ()


def _check_run(run: Path) -> None:
    """Whether a folder is a run's, and the run has come to its end: only a run that has not can go on."""
    if not run.is_dir():
        raise CheckpointError(f"{run}: there is no such run\n  way out: a run's directory, as `zoo train` names it at its end: runs/NAME/TIME")
    for name in ("config.yaml", "overrides.yaml"):
        if not (run / name).is_file():
            owner = run.absolute().parent
            place = str(run.parent) if (owner / "overrides.yaml").is_file() else "a run's directory, as `zoo train` names it at its end: runs/NAME/TIME"
            raise CheckpointError(f"{run}: has no {name}, so that it is no run's directory, which alone tells how a model was trained\n  way out: {place}")
    for name in ("result.json", "environment.json"):
        if not (run / name).is_file():
            raise CheckpointError(f"{run}: has no {name}, so that it is no finished run of zoo\n  way out: zoo train resume={run}")


def read_evidence(run: Path) -> Evidence:
    """Of a run's directory.

    Raises:
        CheckpointError: where it is none, or has not come to its end.
    """
    _check_run(run)
    import yaml

    bundle = open_bundle(run)
    overrides = yaml.safe_load((run / "overrides.yaml").read_text(encoding="utf-8")) or []
    result, environment = read_plain_json(run / "result.json"), read_plain_json(run / "environment.json")
    tables = read_plain_json(bundle.path / METRICS)["tables"]
    return Evidence(
        run=run,
        bundle=bundle,
        command=command_of(overrides),
        seed=int(bundle.config["seed"]),
        seconds=float(result["seconds"]),
        environment=environment,
        intervals=accuracies(tables),
        errors=standard_errors(tables),
        plots=tuple(sorted((run / "plots").glob("*.png"))),
    )


def command_of(overrides: Sequence[str]) -> str:
    """What was typed, without where the run was put, and without folders of the machine."""
    import shlex

    from zoo.hub.portable import key_of_word, portable_word

    left_out = ("run_dir", "resume", "logger", "trainer.checkpoint_to")
    kept = [word for word in overrides if not any(key == out or key.startswith((f"{out}.", f"{out}@")) for key in (key_of_word(word),) for out in left_out)]
    return " ".join(["zoo train", *(shlex.quote(portable_word(word)) for word in kept)])


def same_but_for_the_seed(runs: Sequence[Evidence]) -> None:
    """Raises:
    ZooError: for runs that differ in more than their seeds; names the first key.
    """
    ignored = ("seed", "run_dir", "name", "logger", "parallel", "allow", "resume", "rerun")
    first = _flat(runs[0].bundle.config)
    for other in runs[1:]:
        tree = _flat(other.bundle.config)
        different = [key for key in sorted(first.keys() | tree.keys()) if first.get(key) != tree.get(key) and key.partition(".")[0] not in ignored]
        if different:
            key = different[0]
            raise ZooError(
                f"{other.run}: {key} is {tree.get(key)!r}, and {first.get(key)!r} in {runs[0].run}: not runs of one model\n  way out: a card for each"
            )
    if len({run.seed for run in runs}) != len(runs):
        raise ZooError(f"seeds {', '.join(str(run.seed) for run in runs)}: two runs of one seed tell nothing of the spread\n  way out: zoo train ... seed=1")


def spread(runs: Sequence[Evidence]) -> list[tuple[str, float, float]]:
    """Figures of the test split: name, mean over seeds, standard deviation."""
    names = [name for name in runs[0].bundle.metrics if name.startswith("test/")]
    rows = []
    for name in names:
        values = [run.bundle.metrics[name] for run in runs]
        rows.append((name, statistics.fmean(values), statistics.stdev(values)))
    return rows


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        found |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: json.dumps(value)}
    return found


def sections(runs: Sequence[Evidence], *, limits: str | None) -> str:
    """What the evidence adds to a card, as Markdown."""
    first = runs[0]
    parts = []
    sure = [f"| {name} | {interval} |" for name, interval in sorted(first.intervals.items())]
    for name, (error, count) in sorted(first.errors.items()):
        value = first.bundle.metrics[name]
        sure.append(f"| {name} | {value - Z95 * error:.4f} to {value + Z95 * error:.4f} ({count:,} samples) |")
    if sure or len(runs) > 1:
        parts.append("## How sure the figures are")
    if sure:
        table = "\n".join(sure)
        kind = " and ".join([*(["Wilson's for shares"] if first.intervals else []), *(["normal ones for means"] if first.errors else [])])
        parts.append(f"Intervals of 95 % over the samples of a split ({kind}):\n\n| figure | interval |\n|---|---|\n{table}")
    if len(runs) > 1:
        rows = "\n".join(f"| {name} | {mean:.4f} | {deviation:.4f} |" for name, mean, deviation in spread(runs))
        seeds = ", ".join(str(run.seed) for run in runs)
        parts.append(
            f"Over {len(runs)} seeds ({seeds}); the weights here are of seed {first.seed}:\n\n| figure | mean | standard deviation |\n|---|---|---|\n{rows}"
        )
    about, packages = first.environment, first.environment.get("packages", {})
    device = ", ".join([str(about.get("device")), *(f"{value}" for value in (about.get("accelerator") or {}).values())])
    cost = (
        f"{first.seconds:,.0f} s in training on {device}; {about.get('processes')} process(es), {about.get('threads') or 'as many as cores'} thread(s) each. "
        "Energy was not measured."
    )
    again = f"zoo {about.get('zoo')}, commit {about.get('commit') or 'unknown'}, torch {packages.get('torch')}, Python {about.get('python')}"
    parts.append(f"## Cost, and the same again\n\n{cost}\n\n```bash\n{first.command}   # {again}\n```")
    if first.plots:
        parts.append("## Plots\n\n" + "\n".join(f"![{plot.stem.replace('_', ' ')}](plots/{plot.name})" for plot in first.plots))
    if limits:
        parts.append(f"## Known limits\n\n{limits}")
    return "\n\n".join(parts) + "\n"
