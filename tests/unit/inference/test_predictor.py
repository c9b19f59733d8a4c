"""Answers for raw inputs of every kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.bundles import KINDS, LABELS, make_bundle, raw_inputs
from zoo.errors import ZooError
from zoo.hub.bundle import load_bundle
from zoo.inference.predictor import Predictor


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {kind: make_bundle(kind, folder / kind) for kind in KINDS}


@pytest.fixture
def predictor(bundles: dict[str, Path], kind: str) -> Predictor:
    return Predictor.load(bundles[kind], device="cpu")


def close(left: Any, right: Any) -> bool:
    """Equal, floats to rounding."""
    if isinstance(left, float):
        return abs(left - right) < 1e-5 * max(1, abs(left))
    if isinstance(left, dict):
        return list(left) == list(right) and all(close(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(close, left, right))
    return bool(left == right)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_for_each_input_whatever_the_batch(predictor: Predictor, kind: str, tmp_path: Path) -> None:
    """R8: alone and in company, the same answers."""
    inputs = raw_inputs(kind, tmp_path)
    together = predictor.predict(inputs)
    assert len(together) == 5
    assert not any("error" in answer for answer in together)
    assert close(together, predictor.predict(inputs, batch_size=2))
    assert close(together, [answer for given in inputs for answer in predictor.predict([given])])
    assert len({str({key: value for key, value in answer.items() if key != "input"}) for answer in together}) == 5, "the model looks at its input"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_what_the_model_computes(bundles: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """R18: the processor's batch and the model's forward, by hand, give the same."""
    loaded = load_bundle(bundles[kind])
    inputs = raw_inputs(kind, tmp_path)
    values = [next(iter(given.values())) if kind == "history" else given for given in inputs]
    batch = loaded.processor.batch([{loaded.model.input: value} for value in values], with_targets=False)
    with torch.no_grad():
        prediction = loaded.model(batch.inputs)
    answers = zoo.load(bundles[kind], device="cpu").predict(inputs, top_k=3)
    for row, answer in enumerate(answers):
        match kind:
            case "table":
                own = float(prediction["standardised"][row, 0])  # the target's mean is 10, its deviation 2
                assert answer["values"]["price"] == pytest.approx(10 + 2 * own, abs=1e-5)
            case "history":
                scores = prediction["scores"][row].clone()
                scores[0] = -torch.inf
                scores[batch.targets["seen"][row]] = -torch.inf
                assert [entry["item"] for entry in answer["top"]] == [f"film-{item}" for item in scores.topk(3).indices.tolist()]
            case _:
                shares = prediction["logits"][row].softmax(0)
                assert answer["label"] == LABELS[int(shares.argmax())]
                assert answer["probability"] == pytest.approx(float(shares.max()), abs=1e-6)


@pytest.mark.parametrize("kind", ["image"])
def test_forms_of_an_image(predictor: Predictor, tmp_path: Path) -> None:
    """A path, a string, PIL, an array, a tensor, bytes and a mapping are the same picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    forms = [path, str(path), Image.fromarray(pixels), pixels, torch.from_numpy(pixels), path.read_bytes(), {"image": path}]
    answers = predictor.predict(forms)
    assert all(answer["probability"] == pytest.approx(answers[0]["probability"]) for answer in answers)
    assert answers[0]["input"] == str(path)


@pytest.mark.parametrize("kind", ["image"])
def test_a_broken_input_spoils_no_other(predictor: Predictor, tmp_path: Path) -> None:
    good = raw_inputs("image", tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    mixed = [str(tmp_path / "broken.png"), good[0], str(tmp_path / "absent.png"), good[1], 3.5]
    answers = predictor.predict(mixed)
    assert "cannot be decoded" in answers[0]["error"]
    assert "no image file" in answers[2]["error"]
    assert "not float" in answers[4]["error"]
    expected = predictor.predict([good[0], good[1]])
    assert close([answers[1], answers[3]], expected)
    assert [set(answer) for answer in predictor.predict([mixed[0], mixed[2]])] == [{"input", "error"}] * 2


@pytest.mark.parametrize("kind", ["history"])
def test_unseen_users_and_items_have_a_stated_answer(predictor: Predictor) -> None:
    """R18."""
    unknown, empty, nothing_known, partly = predictor.predict(
        [{"user": "bob"}, {"items": []}, {"items": ["nowhere"]}, {"items": ["film-1", "nowhere"]}], top_k=3
    )
    for answer in (unknown, empty, nothing_known):
        assert [entry["item"] for entry in answer["top"]] == ["film-5", "film-1", "film-2"]
        assert "most training users met" in answer["note"]
    assert "'bob' does not occur" in unknown["note"]
    assert "nowhere" in partly["note"]
    assert "film-1" not in [entry["item"] for entry in partly["top"]]


@pytest.mark.parametrize("kind", ["history"])
def test_rankings_leave_out_what_was_seen_and_are_as_long_as_asked(predictor: Predictor) -> None:
    [answer] = predictor.predict([{"user": "ann"}], top_k=50)
    ranked = [entry["item"] for entry in answer["top"]]
    assert sorted(ranked) == sorted(f"film-{number}" for number in range(4, 13))  # all twelve but the three of ann's history
    scores = [entry["score"] for entry in answer["top"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["top"][0]["title"] == f"Title {ranked[0]}"


@pytest.mark.parametrize("kind", ["table"])
def test_rows_of_files(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("colour,age,size\nred,1,2\nblue,2,x\ngreen,3,4\n")
    (tmp_path / "rows.jsonl").write_text('{"colour": "red", "age": 1, "size": 2}\n\n{"colour": "red", "age": 1}\n')
    answers = predictor.predict([tmp_path / "rows.csv", str(tmp_path / "rows.jsonl"), {"colour": "red", "age": "1", "size": 2}, tmp_path / "absent.csv"])
    assert [answer["input"] for answer in answers[:5]] == [f"{tmp_path}/rows.csv:{row}" for row in (1, 2, 3)] + [
        f"{tmp_path}/rows.jsonl:{row}" for row in (1, 2)
    ]
    assert ["error" in answer for answer in answers] == [False, True, False, False, True, False, True]
    assert answers[0]["values"]["price"] == pytest.approx(answers[5]["values"]["price"])
    assert "lacks size" in answers[4]["error"]
    assert "'x'" in answers[1]["error"]


@pytest.mark.parametrize("kind", ["text"])
def test_texts_and_files_of_text(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("good")
    (tmp_path / "many.csv").write_text("id,text\n1,good\n2,bad\n")
    first, second, third, fourth, fifth = predictor.predict(["good", tmp_path / "one.txt", tmp_path / "many.csv", tmp_path / "absent.txt"])
    assert first["probability"] == second["probability"] == third["probability"]
    assert third["input"].endswith("many.csv:1")
    assert fourth["probability"] != first["probability"]
    assert "no text file" in fifth["error"]
    assert "--text" in fifth["error"]


@pytest.mark.parametrize("kind", ["text"])
def test_misuse_is_told(predictor: Predictor) -> None:
    with pytest.raises(ZooError, match=r"predict takes a list of inputs: predict\(\['hello'\]\)"):
        predictor.predict("hello")
    with pytest.raises(ZooError, match="top_k=0"):
        predictor.predict(["hello"], top_k=0)
    with pytest.raises(ZooError, match=r"^batch_size=0 has"):
        predictor.predict(["hello"], batch_size=0)
    with pytest.raises(ZooError, match=r"temperature=0.5, seed=1: for models that give continuations of a text; this one gives labels\n.*without temp"):
        predictor.predict(["hello"], temperature=0.5, seed=1)
    assert predictor.predict([]) == []
    assert predictor.predict([5])[0]["error"] == "a text is a string, not int"
