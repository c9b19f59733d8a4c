"""A run on pairs without a label, from a table to answers: what is measured, what the bundle says, what is refused beforehand."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoo.checks import check
from zoo.compose import compose
from zoo.config import RunConfig
from zoo.errors import ConfigError, DataError
from zoo.inference.evaluate import evaluate_bundle
from zoo.inference.predictor import Predictor
from zoo.training.job import run_job

WORDS = ("red", "blue", "green", "black"), ("cat", "dog", "owl", "fish", "bee")


def table(folder: Path) -> Path:
    """Two numbers and the two words that they stand for; every combination occurs in every split."""
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["words", "first", "second", "split"])
        for number in range(120):
            first, second = number % 4, number // 4 % 5
            split = ("train", "train", "train", "validation", "test", "train")[number // 20]
            writer.writerow([f"{WORDS[0][first]} {WORDS[1][second]}", first, second, split])
    return folder / "rows.csv"


def config(path: Path, **trainer: Any) -> RunConfig:
    data = {"name": "table", "path": str(path), "text": "words", "tokenizer": {"name": "byte"}, "categories": ["first", "second"], "split_column": "split"}
    towers = {"text": {"name": "lstm", "dim": 16, "depth": 1}, "table": {"name": "table", "dims": [32]}}
    return RunConfig.from_dict(
        {
            "name": "pairs",
            "data": data | {"target": "words", "target_kind": "pair", "batch_size": 40, "augment": {}},
            "model": {"encoder": {"name": "dual", "dim": 16, "encoders": towers}, "decoder": {"name": "none"}, "head": {"name": "contrastive"}},
            "optimizer": {"name": "adamw", "lr": 0.02},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 60, "device": "cpu", "accumulate": 2} | trainer,
        }
    )


def test_pairs_are_learned_published_and_predicted(tmp_path: Path) -> None:
    """R7, R18: figures of the whole split, whatever the batch, and no loss, which would depend on it; 20 kinds of pairs in the test split."""
    result = run_job(config(table(tmp_path)), tmp_path / "run")
    figures = result["metrics"]
    assert figures["test/recall@1"] > 0.5  # chance is .05
    assert not [name for name in figures if name.endswith("/loss")]
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0] / 2
    for size in (1, 7):
        again = evaluate_bundle(tmp_path / "run", overrides=[f"data.eval_batch_size={size}"]).evaluation.figures
        assert again == {name: pytest.approx(value) for name, value in figures.items() if name.startswith("test/")}
    card = (tmp_path / "run/bundle/README.md").read_text()
    assert "`pair`: no label" in card
    predictor = Predictor.load(tmp_path / "run", device="cpu")
    right, wrong = predictor.predict([{"text": "blue owl", "first": 1, "second": 2}, {"text": "blue owl", "first": 3, "second": 4}])
    assert right["similarity"] > wrong["similarity"]
    lacking = predictor.predict([{"text": "blue owl"}])[0]
    assert "table" in lacking["error"]


def test_a_row_without_what_pairs_are_known_by_is_named(tmp_path: Path) -> None:
    path = table(tmp_path)
    path.write_text(path.read_text() + ",1,1,train\n")
    node = config(path)
    node = replace(node, data=node.data | {"text": None, "numbers": ["first"], "categories": ["second"]})
    from zoo.build import build_dataset

    data = build_dataset(node).open()
    raw = data.splits["train"].read(len(data.splits["train"]) - 1)
    with pytest.raises(DataError, match="target 'pair' is empty"):
        data.targets["pair"].encode(raw["pair"])
    first, same, other = (data.targets["pair"].encode(value)["values"] for value in ("a", "a", "b"))
    assert first == same != other


PAIRS = ["data=stamps_pairs", "model/encoder=dual_tiny", "model/head=contrastive", "logger=none"]


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (["trainer.monitor=validation/loss"], "trainer.monitor", "head 'contrastive' measures no 'validation/loss'"),
        (["data.optional=[text]"], "model.encoder", "may lack the input 'text', and encoder 'dual' needs it in every row"),
        (
            ["model.encoder.encoders.image.norm=batch", "trainer.accumulate=2", "trainer.batch_statistics=local"],
            "trainer.accumulate",
            "2: head 'contrastive' compares the rows of the whole batch, for which each part runs forward twice",
        ),
        (["model/head=classification"], "model.head", "takes ClassTarget, but the data gives pair"),
        (["model/encoder=fusion_tiny"], "model.head", "that does not keep inputs apart; choose model/encoder=dual"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        check(compose([*PAIRS, *overrides]))
    assert told.value.path == path
