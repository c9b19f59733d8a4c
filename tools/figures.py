"""What the tools that measure share: Markdown tables, quartiles, and the tree of the sources on the path of child processes."""

import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def use_this_tree() -> None:
    """Import zoo and tests from beside this file, here and in child processes."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, none of them outside the values; of a single value three times that."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return low, middle, high


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose columns are also even to the eye; numbers to the right."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max([3, len(head), *(len(row[column]) for row in cells)]) for column, head in enumerate(heads)]
    right = [bool(cells) and all(number_like(row[column]) for row in cells) for column in range(len(heads))]

    def line(parts: Sequence[str]) -> str:
        aligned = [part.rjust(width) if to_right else part.ljust(width) for part, width, to_right in zip(parts, widths, right, strict=True)]
        return f"| {' | '.join(aligned)} |"

    rule = [f"{'-' * (width - 1)}:" if to_right else "-" * width for width, to_right in zip(widths, right, strict=True)]
    return "\n".join([line(list(heads)), line(rule), *(line(row) for row in cells)])


def number_like(text: str) -> bool:
    return text == "" or text.lstrip("+-").replace(",", "").replace(" ", "").removesuffix("%").replace(".", "", 1).isdigit()


def verdict(problems: Sequence[str]) -> int:
    """Says what is beyond its bound, one line each; the exit code."""
    for problem in problems:
        print(f"beyond its bound: {problem}")
    print("all within their bounds" if not problems else f"{len(problems)} beyond their bounds")
    return 1 if problems else 0
