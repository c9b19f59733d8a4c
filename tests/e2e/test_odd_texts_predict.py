"""Odd texts through models of every task of text: an answer of finite numbers, or one clear line; the others of a batch are answered as they are alone."""

import json
import math
from typing import Any

import pytest

from tests.odd_texts import MILLION, ODD
from zoo.config import RunConfig
from zoo.inference.predictor import Predictor
from zoo.inference.sampling import Sampling
from zoo.training.job import run_job

PLAIN = "some text of words"
TALK = [{"role": "user", "content": "some text"}, {"role": "assistant", "content": "of words"}]
TASKS: dict[str, dict[str, Any]] = {
    "class": {"data": {"target": "label"}, "head": "classification"},
    "number": {"data": {"target": "number", "target_kind": "number"}, "head": "regression"},
    "tags": {"data": {"text": "words", "target": "tags", "target_kind": "tags"}, "head": "token_classification"},
    "masked": {"data": {"target": "text", "target_kind": "masked", "tokenizer": {"name": "wordpiece", "vocab_size": 100}}, "head": "masked_tokens"},
    "continuation": {"data": {"target": "text", "target_kind": "next_token"}, "head": "next_token", "encoder": {"attention": "causal"}},
    "text": {"data": {"target": "label", "target_kind": "text"}, "head": "next_token", "decoder": {"name": "transformer", "depth": 1, "heads": 2}},
    "vector": {"data": {"target": "label", "target_kind": "pair"}, "head": "embedding"},
    "reply": {"data": {"text": "talk", "target": "talk", "target_kind": "dialogue"}, "head": "next_token", "encoder": {"attention": "causal"}},
    "answer": {"data": {"second": "context", "target": "label", "target_kind": "answer"}, "head": "question_answering"},
}


@pytest.fixture(scope="module", params=TASKS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Predictor]:
    folder = tmp_path_factory.mktemp(request.param)
    row = {"text": PLAIN, "label": "some", "number": 1.5, "words": PLAIN.split(), "tags": ["a", "b", "a", "b"], "talk": TALK, "context": "some text"}
    rows = [row | {"label": ("some", "text")[place % 2], "number": place} for place in range(8)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = TASKS[request.param]
    data = {"name": "table", "path": str(folder / "rows.jsonl"), "text": "text", "tokenizer": {"name": "bpe", "vocab_size": 300}, "max_length": 32}
    config = RunConfig.from_dict(
        {
            "name": "odd",
            "data": data | {"validation": 0.0, "test": 0.0, "batch_size": 4, "augment": {}} | task["data"],
            "model": {
                "encoder": {"name": "transformer", "dim": 16, "depth": 1, "heads": 2, "positions": "rotary"} | task.get("encoder", {}),
                "decoder": task.get("decoder", {"name": "none"}),
                "head": {"name": task["head"]},
            },
            "optimizer": {"name": "adamw"},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 2, "device": "cpu"},
        }
    )
    run_job(config, folder / "run")
    return request.param, Predictor.load(folder / "run")


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def asked(kind: str, text: str) -> Any:
    return {"text": text, "context": text} if kind == "answer" else text


def test_odd_texts(model: tuple[str, Predictor]) -> None:
    kind, predictor = model
    sampling = Sampling(max_tokens=4) if predictor.writes else None
    (alone,) = predictor.predict([asked(kind, PLAIN)], sampling=sampling)
    texts = [*ODD.values(), MILLION]
    answers = predictor.predict([asked(kind, text) for text in [*texts, PLAIN]], sampling=sampling, batch_size=7)
    counts = {"answers": 0, "errors": 0}
    for text, answer in zip(texts, answers, strict=False):
        counts["errors" if "error" in answer else "answers"] += 1
        if "error" in answer:
            assert answer["error"].strip(), answer
            assert "\n" not in answer["error"].strip()
            assert len(answer["error"]) < 300
            assert not text.strip() or kind not in ("class", "number", "vector", "continuation")  # only an empty text tells nothing
        else:
            assert finite(answer)
            json.dumps({key: value for key, value in answer.items() if key != "input"}).encode()
    assert counts["answers"] >= (1 if kind == "masked" else 10)  # what has no mask has nothing to fill
    told = {key: value for key, value in answers[-1].items() if key != "input"}
    assert close(told, {key: value for key, value in alone.items() if key != "input"})


def close(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    return one == pytest.approx(two, abs=1e-5) if isinstance(one, float) else one == two
