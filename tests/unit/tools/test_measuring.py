"""What the measuring tools compute from what they measured."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.bench.batches import budget_for
from tools.figures import markdown, quartiles, verdict
from tools.long_run import last_step, row_times, slope, together
from tools.resume_table import numbers
from zoo.data.order import Planner
from zoo.settings import BatchPacking, Order


def test_a_table_is_markdown_with_numbers_to_the_right() -> None:
    lines = markdown(["name", "ms"], [["a|b", 1.5], ["long name", "-12.25 %"]]).splitlines()
    assert lines == [
        "| name      |       ms |",
        "| --------- | -------: |",
        "| a\\|b      |      1.5 |",
        "| long name | -12.25 % |",
    ]


def test_the_verdict_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict([]) == 0
    assert verdict(["one", "two"]) == 1
    assert "2 beyond their bounds" in capsys.readouterr().out


def test_quartiles_are_numpys() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    assert quartiles(values) == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_steps_are_timed_between_rows_of_the_training() -> None:
    """Not over an evaluation, and not back over a resume."""
    rows = [
        {"step": 10, "time": 1.0, "train/loss": 1.0},
        {"step": 20, "time": 1.5, "train/loss": 1.0},
        {"step": 20, "time": 9.0, "validation/loss": 1.0},
        {"step": 30, "time": 9.7, "train/loss": 1.0},
        {"step": 40, "time": 10.1, "train/loss": 1.0},
    ]
    assert row_times(rows) == [(20, pytest.approx(50.0)), (40, pytest.approx(40.0))]


def test_the_slope_is_that_of_a_straight_line() -> None:
    assert slope([0, 500, 1000, 2000], [7.0, 8.0, 9.0, 11.0]) == pytest.approx(2.0)
    assert slope([5, 5], [1.0, 2.0]) == 0.0


def test_the_last_whole_row_counts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 10}\n{"step": 20}\n{"ste')
    assert last_step(log) == 20


def test_stops_are_written_as_ranges() -> None:
    assert numbers("1-3,7") == [1, 2, 3, 7]


@pytest.mark.parametrize(("order", "packing"), [(Order.BUCKETS, BatchPacking.NONE), (Order.SHUFFLE, BatchPacking.FLAT)])
def test_the_budget_is_the_smallest_with_as_many_steps(order: Order, packing: BatchPacking) -> None:
    from zoo.data.budget import Budget

    lengths = torch.randint(4, 64, (400,), generator=torch.Generator().manual_seed(0)).double()

    def steps(budget: int) -> int:
        budgets = [Budget(float(budget), lengths[:, None], packing is BatchPacking.FLAT)]
        return Planner(400, order=order, seed=0, batch_size=4000, lengths=lengths[:, None], budgets=budgets).steps

    found = budget_for(lengths, 16, 4000, order, packing)
    assert steps(found) <= 25 < steps(found - 1)


def test_the_memory_tables_documented_cases_are_known_and_others_are_named() -> None:
    tool = Path(__file__).parents[3] / "tools/memory_table.py"
    documented = re.findall(r'--cases "([^"]*)"', tool.read_text())
    assert len(documented) == 1
    for cases, unknown in ((f"{documented[0]};nothing", "nothing"), ("none,selective", "none,selective")):
        done = subprocess.run([sys.executable, str(tool), "--cases", cases], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"error: --cases: {unknown}; there are none; selective; " in done.stderr


def test_a_process_that_begins_later_is_no_growth() -> None:
    """Loader processes of an evaluation begin with the first one; what counts is how each grows while it is there."""
    steps = list(range(0, 1000, 100))
    steady = [{1: 500.0} | ({2: 520.0} if step >= 500 else {}) | ({3: 900.0} if step == 900 else {}) for step in steps]
    assert together(steps, steady) == 0
    growing = [{1: 500.0 + 0.002 * step} | ({2: 520.0 + 0.001 * step} if step >= 500 else {}) for step in steps]
    assert together(steps, growing) == pytest.approx(3.0)
