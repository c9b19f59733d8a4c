"""A model that writes, from a table of pairs to texts and their figures: it learns to write words from their end, which is right or wrong to the letter."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from zoo.cli.main import main
from zoo.config import RunConfig
from zoo.errors import CheckpointError, ZooError
from zoo.hub.resolve import resolve
from zoo.inference.evaluate import evaluate_bundle
from zoo.inference.predictor import Predictor
from zoo.inference.sampling import Sampling
from zoo.inference.written import compare, write_split
from zoo.training.job import run_job

LETTERS = "abcdef"


def config(folder: Path, **changes: Any) -> RunConfig:
    words = [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]
    rows = [{"a": word, "b": word[::-1], "split": ("train",) * 8 + ("validation", "test")} for word in words]
    rows = [row | {"split": row["split"][place * 7 % 10]} for place, row in enumerate(rows)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    part = {"name": "transformer", "heads": 2, "dropout": 0.0, "positions": "learned"}
    return RunConfig.from_dict(
        {
            "name": "backwards",
            "data": {
                "name": "table",
                "path": str(folder / "rows.jsonl"),
                "text": "a",
                "target": "b",
                "target_kind": "text",
                "split_column": "split",
                "tokenizer": {"name": "byte"},
                "max_length": 12,
                "batch_size": 32,
                "augment": {},
            }
            | changes.pop("data", {}),
            "model": {
                "encoder": part | {"dim": 32, "depth": 1},
                "decoder": part | {"depth": 1, "embedding": "tied"} | changes.pop("decoder", {}),
                "head": {"name": "next_token", "output": "tied"} | changes.pop("head", {}),
            },
            "optimizer": {"name": "adamw", "lr": 0.01},
            "schedule": changes.pop("schedule", {"name": "cosine", "warmup_steps": 20}),
            "trainer": {"max_epochs": None, "max_steps": 260, "device": "cpu"} | changes,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backwards")
    run_job(config(folder), folder / "run")
    return folder / "run"


def test_learns_is_measured_and_writes(run: Path) -> None:
    figures = json.loads((run / "result.json").read_text())["metrics"]
    assert figures["test/accuracy"] > 0.95
    again = evaluate_bundle(run, overrides=["data.eval_batch_size=3"]).evaluation.figures
    assert again == {name: pytest.approx(value, rel=1e-4) for name, value in figures.items() if name.startswith("test/")}
    predictor = Predictor.load(run)
    words = ["abc", "fad", "ccc", "dba"]
    answers = predictor.predict(words)
    assert sum(answer["text"] == word[::-1] for word, answer in zip(words, answers, strict=True)) >= 3
    assert {answer["ended"] for answer in answers} == {"end"}
    assert predictor.predict(words, batch_size=1) == answers
    assert [answer["text"] for answer in predictor.predict(words, sampling=Sampling(beams=3))] == [answer["text"] for answer in answers]
    assert "".join(predictor.stream("abc")) == answers[0]["text"]
    with pytest.raises(ZooError, match="beams=2 are compared"):
        list(predictor.stream("a", Sampling(beams=2)))
    with pytest.raises(ZooError, match="seed=1: without"):
        predictor.predict(["a"], seed=1)


def test_a_split_is_written_and_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = write_split(run, sampling=Sampling(max_tokens=8))
    assert len(found.texts) == len({entry["input"] for entry in found.texts}) > 15
    right = sum(entry["text"] == entry["input"][::-1] for entry in found.texts)
    assert all(entry["reference"] == entry["input"][::-1] for entry in found.texts)
    assert found.figures["test/exact"] == pytest.approx(100 * right / len(found.texts))
    references = [[entry["reference"] for entry in found.texts]]
    assert found.figures["test/chrf"] == pytest.approx(sacrebleu.corpus_chrf([entry["text"] for entry in found.texts], references).score)
    assert "version" in found.protocol["bleu"]
    assert main(["eval", str(run), "--write", "--beams", "2", "--rows", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["texts"]) == 5
    assert set(told["metrics"]) == {f"test/{name}" for name in ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact")}
    assert main(["eval", str(run), "--beams", "2"]) == 2
    assert "are of texts that are written" in capsys.readouterr().err
    classifier = resolve("digits_cnn")
    with pytest.raises(ZooError, match="digits writes no text"):
        write_split(classifier)


def test_figures_of_known_texts() -> None:
    """The example of Papineni et al., 2002 (https://aclanthology.org/P02-1040), by sacrebleu itself, and rows counted by hand."""
    texts = ["the the the the the the the", "the cat is on the mat"]
    references = ["the cat is on the mat", "the cat is on the mat"]
    figures, _ = compare(texts, references)
    assert figures["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score)
    assert figures["exact"] == 50
    assert figures["rouge_1"] == pytest.approx(100 * (1 + 2 * (2 / 7) * (2 / 6) / (2 / 7 + 2 / 6)) / 2, rel=1e-5)


def test_weights_of_another_written_vocabulary_are_refused(tmp_path: Path) -> None:
    """The sizes agree, and the letters do not."""
    own = {"target_tokenizer": {"name": "wordpiece", "vocab_size": 100}}
    few = {"max_steps": 2, "schedule": {"name": "constant"}}
    run_job(config(tmp_path, data=dict(own), decoder={"embedding": "own"}, head={"output": "own"}, **few), tmp_path / "first")
    second = config(tmp_path, data=dict(own), decoder={"embedding": "own"}, head={"output": "own"}, **few)
    others = str.maketrans("abcdef", "uvwxyz")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row | {"b": row["b"].translate(others)}) for row in rows))
    with pytest.raises(CheckpointError, match=r"input written: tokenizer\.json(.|\n)*init_fit=\[decoder\.embedding\.weight,head\.output\.weight\]"):
        run_job(replace(second, run=replace(second.run, init=str(tmp_path / "first"))), tmp_path / "second")
