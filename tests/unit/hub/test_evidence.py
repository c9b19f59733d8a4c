"""What a card says of how sure figures are: Wilson's interval against scipy's, tables that heads give, and a multi-label run's card."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from zoo.config import RunConfig
from zoo.hub.card import write_card
from zoo.hub.evidence import accuracies, command_of, standard_errors, wilson
from zoo.training.job import run_job


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (1, 10), (5, 10), (10, 10), (1, 1), (81, 263), (9_123, 10_000)])
def test_wilsons_interval_is_scipys(hits: int, count: int) -> None:
    found, wanted = wilson(hits, count), binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == (pytest.approx(wanted.low, abs=1e-12), pytest.approx(wanted.high, abs=1e-12))
    assert (found.share, found.count) == (hits / count, count)


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe, 1998, Statistics in Medicine 17, p. 861, method 3: 81 of 263, and 0 of 20."""
    assert str(wilson(81, 263)) == "0.2553 to 0.3662 (263 samples)"
    assert str(wilson(0, 20)) == "0.0000 to 0.1611 (20 samples)"


def test_accuracies_of_tables_that_have_one() -> None:
    """The rows are true classes; several labels a sample, an empty split and what is no table of classes have no share of samples that are right."""
    tables: dict[str, Any] = {
        "test/confusion": [[8, 2], [1, 9]],
        "validation/confusion": [[[5, 1], [2, 3]], [[4, 0], [1, 6]]],  # two labels, so as many rows as columns
        "other/confusion": [[[5, 1], [2, 3]], [[4, 0], [1, 6]], [[1, 1], [1, 1]]],
        "empty/confusion": [[0, 0], [0, 0]],
        "odd/confusion": [[1, 2, 3], [4, 5, 6]],
        "test/labels": ["a", "b"],
    }
    assert accuracies(tables) == {"test/accuracy": wilson(17, 20)}


def test_standard_errors_of_figures() -> None:
    tables = {"test/standard_error": {"bits_per_byte": 0.25, "texts": 504}, "test/confusion": [[1, 0], [0, 1]], "validation/standard_error": {}}
    assert standard_errors(tables) == {"test/bits_per_byte": (0.25, 504)}


def test_the_command_names_no_place_of_the_owner() -> None:
    """Whatever sign an override begins with; a value with spaces is quoted for the shell."""
    words = [
        "++trainer.checkpoint_to=s3://mine/x",
        "+logger.wandb.entity=me",
        "+run_dir=/home/me/x",
        "logger=none",
        "data.path=/home/me/My Data/my rows.csv",
        "+a.b=1",
    ]
    assert command_of(words) == "zoo train 'data.path=my rows.csv' +a.b=1"


def test_the_card_of_a_multi_label_run(tmp_path: Path) -> None:
    rows = [
        {"x": float(number % 7), "tags": ["red", "round", "red|round"][number % 3], "split": ("train", "train", "validation", "test")[number % 4]}
        for number in range(48)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"name": "table", "path": str(tmp_path / "rows.jsonl"), "numbers": ["x"], "target": "tags", "target_kind": "multi", "split_column": "split"}
    model = {"encoder": {"name": "table", "dims": [8]}, "decoder": {"name": "none"}, "head": {"name": "classification"}}
    options = {"optimizer": {"name": "sgd"}, "schedule": {"name": "constant"}, "trainer": {"max_epochs": None, "max_steps": 2, "device": "cpu"}}
    config = {"name": "tags", "data": data | {"batch_size": 8, "augment": {}}, "model": model} | options
    settings = RunConfig.from_dict(config)
    run_job(settings, tmp_path / "run")
    settings.save(tmp_path / "run" / "config.yaml")  # what `zoo train` leaves there
    (tmp_path / "run" / "overrides.yaml").write_text("[]")
    tables = json.loads((tmp_path / "run" / "bundle" / "metrics.json").read_text())["tables"]
    assert isinstance(tables["test/confusion"][0][0], list)
    assert "zoo train" in write_card([tmp_path / "run"]).read_text()


def test_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, zoo.hub.evidence; print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
