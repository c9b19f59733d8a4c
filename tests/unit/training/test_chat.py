"""A model of conversations from a table to a talk: it learns the assistant's turns alone, closes them, and answers as it was trained."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from zoo.cli.main import main
from zoo.config import RunConfig
from zoo.errors import ZooError
from zoo.inference.predictor import Predictor
from zoo.inference.sampling import Sampling
from zoo.training.job import run_job

ANSWERS = {"hello": "good day to you", "what is it": "a cat", "who are you": "a model", "bye": "see you soon"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    asked = list(ANSWERS)
    rows = []
    for place in range(160):
        turns = [asked[(place * 7 + turn * (1 + place % 3)) % 4] for turn in range(1 + place % 3)]
        talk = [message for turn in turns for message in ({"role": "user", "content": turn}, {"role": "assistant", "content": ANSWERS[turn]})]
        rows.append({"talk": talk, "split": "test" if place % 10 == 9 else "train"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"name": "table", "path": str(folder / "rows.jsonl"), "text": "talk", "target": "talk", "target_kind": "dialogue", "split_column": "split"}
    config = RunConfig.from_dict(
        {
            "name": "talk",
            "data": data | {"tokenizer": {"name": "bpe", "vocab_size": 400}, "max_length": 64, "batch_size": 16, "augment": {}},
            "model": {
                "encoder": {"name": "transformer", "dim": 48, "depth": 2, "heads": 4, "attention": "causal", "dropout": 0.0},
                "decoder": {"name": "none"},
                "head": {"name": "next_token"},
            },
            "optimizer": {"name": "adamw", "lr": 0.004},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 250, "device": "cpu"},
        }
    )
    run_job(config, folder / "run")
    return folder / "run"


def test_it_answers_as_it_was_taught(run: Path) -> None:
    figures = json.loads((run / "result.json").read_text())["metrics"]
    assert figures["test/perplexity"] < 1.1
    predictor = Predictor.load(run)
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day to you"}, {"role": "user", "content": "what is it"}]
    answers = predictor.predict(["hello", talk, [{"role": "robot", "content": "x"}], "bye " * 100], sampling=Sampling(max_tokens=20))
    assert answers[0] == {"input": "hello", "reply": "good day to you", "tokens": answers[0]["tokens"], "ended": "end"}
    assert answers[1]["reply"] == "a cat"
    assert "has the role 'robot'" in answers[2]["error"]
    assert "the last turn alone has" in answers[3]["error"]
    assert "".join(predictor.chat(talk, Sampling(max_tokens=20))).strip() == "a cat"
    assert "".join(predictor.stream("bye", Sampling(max_tokens=20))).strip() == "see you soon"
    alone = [predictor.predict([asked], sampling=Sampling(max_tokens=20, temperature=1.5, seed=3))[0]["reply"] for asked in ANSWERS]
    assert alone[0] == predictor.predict(list(ANSWERS), sampling=Sampling(max_tokens=20, temperature=1.5, seed=3))[0]["reply"]


def test_files_of_conversations(run: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "who are you"}]
    (tmp_path / "asked.jsonl").write_text("\n".join(json.dumps({"talk": entry}) for entry in (talk, "bye")))
    answers = Predictor.load(run).predict([tmp_path / "asked.jsonl"], sampling=Sampling(max_tokens=20))
    assert [answer["reply"] for answer in answers] == ["a model", "see you soon"]


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_zoo_chat(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "talk.json"
    typed(monkeypatch, "hello", "", "what is it", f"/save {kept}", "/nonsense", "/new", "who are you", "/again", "/quit", "bye")
    assert main(["chat", str(run), "--temperature", "0", "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out) == [{"role": "user", "content": "who are you"}, {"role": "assistant", "content": "a model"}]
    assert [turn["content"] for turn in json.loads(kept.read_text())] == ["hello", "good day to you", "what is it", "a cat"]
    assert "/nonsense is no command" in found.err
    typed(monkeypatch, "bye")
    assert main(["chat", str(run), "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "see you soon\n"


def test_models_that_do_not_converse(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, "hello")
    assert main(["chat", "digits_cnn"]) == 2
    assert "was not trained on conversations" in capsys.readouterr().err
    assert main(["chat", str(run), "--temperature", "0", "--top-k", "3"]) == 2
    with pytest.raises(ZooError, match="compared when they are done"):
        next(Predictor.load(run).chat([{"role": "user", "content": "hello"}], Sampling(beams=2)))


def test_only_the_assistant_is_learned(run: Path) -> None:
    processor: Any = Predictor.load(run).processor
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day to you"}]
    batch = processor.batch([{"text": talk, "next": talk}], with_targets=True)
    told = [token for token in batch.targets["next"][0].tolist() if token >= 0]
    assert processor.inputs["text"].tokenizer.decode(told) == "good day to you"
    assert told[-1] == processor.inputs["text"].closing
