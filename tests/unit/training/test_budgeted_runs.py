"""Runs on budgeted and packed batches: the losses of a run do not depend on packing, nor on how its batches are split (R3, R8)."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.config import RunConfig
from zoo.training.job import run_job

WORDS = ["a", "dull", "film", "of", "grey", "people", "who", "say", "so", "at", "length", "and", "never", "stop", "until", "the", "evening", "ends"]


def losses(folder: Path, loader: dict[str, Any], accumulate: int) -> list[float]:
    folder.mkdir()
    data = folder / "reviews.csv"
    rows = [f"{' '.join(WORDS[: 1 + number * 5 % 17])},{'good' if number % 3 else 'bad'},{'train' if number < 36 else 'test'}" for number in range(44)]
    data.write_text("review,label,split\n" + "\n".join(rows) + "\n")
    node = {"name": "table", "path": str(data), "text": "review", "target": "label", "split_column": "split", "max_length": 32}
    node |= {"tokenizer": {"name": "wordpiece", "vocab_size": 100}, "augment": {}}
    encoder = {"name": "transformer", "dim": 16, "depth": 2, "heads": 2, "dropout": 0.2, "attention_dropout": 0.2, "drop_path": 0.2}
    config = RunConfig.from_dict(
        {
            "name": "reviews",
            "data": node | loader,
            "model": {"encoder": encoder, "decoder": {"name": "none"}, "head": {"name": "classification", "pooling": "mean"}},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "schedule": {"name": "cosine"},
            "trainer": {"max_epochs": 2, "log_every": 1, "accumulate": accumulate, "device": "cpu"},
        }
    )
    result = run_job(config, folder)
    rows_of_log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found = [row["train/loss"] for row in rows_of_log if "train/loss" in row]
    assert len(found) == result["step"]
    return [*found, result["metrics"]["test/loss"]]


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        ({"batch_size": 9}, {"batch_size": 9, "packing": "flat"}),
        ({"batch_size": 36, "batch_tokens": 120, "packing": "flat"},) * 2,
        ({"batch_size": 36, "batch_tokens": 120, "order": "buckets"},) * 2,
    ],
    ids=["packed", "packed within a budget", "buckets within a budget"],
)
def test_losses_are_the_same(plain: dict[str, Any], other: dict[str, Any], tmp_path: Path) -> None:
    whole, split = losses(tmp_path / "whole", plain, 1), losses(tmp_path / "split", other, 3)
    assert len(whole) > 4
    assert split == pytest.approx(whole, rel=2e-5)
