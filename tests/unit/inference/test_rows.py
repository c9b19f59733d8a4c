"""Models of several inputs on raw rows, some of which lack some of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.bundles import SEVERAL, make_bundle
from zoo.cli.main import main
from zoo.cli.predict import render
from zoo.errors import ZooError
from zoo.hub.bundle import load_bundle, open_bundle
from zoo.inference.predictor import Predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_bundle(SEVERAL, folder / "bundle")
    for number in range(3):
        Image.new("L", (8, 8), 80 * number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor.load(folder / "bundle")


def test_a_bundle_knows_what_its_parts_take(folder: Path) -> None:
    bundle = open_bundle(folder / "bundle")
    assert [entry.name for entry in bundle.inputs] == list(load_bundle(folder / "bundle").model.inputs) == ["image", "text", "table"]
    assert bundle.example == """--row '{"image": "IMAGE_FILE", "text": "some text", "COLUMN": 1.5}'"""
    with pytest.raises(ZooError, match="takes several inputs, image, text, table"):
        _ = bundle.input
    card = (folder / "bundle" / "README.md").read_text()
    assert "--row '" in card
    assert "32 tokens" in card or "first 32" in card
    assert card.count("a sample may lack it") == 2


def test_rows_are_answered_with_what_they_have(folder: Path, predictor: Predictor) -> None:
    """R9, R18: each answer is the model's own on that row alone, and says what was not there."""
    image, table = str(folder / "1.png"), {"age": 3, "size": 1.5, "colour": "red"}
    rows: list[dict[str, Any]] = [
        {"image": image, "text": "fine", **table},
        {"image": image, "text": "fine", "table": table},
        {"image": image, "text": ""},
        {"image": image, **table},
        {"image": image},
        {"image": Path(image), "text": None},
    ]
    answers = predictor.predict(rows)
    assert [answer.get("absent") for answer in answers] == [None, None, ["text", "table"], ["text"], ["text", "table"], ["text", "table"]]
    assert answers[0]["probabilities"] == answers[1]["probabilities"]
    assert answers[2]["probabilities"] == answers[4]["probabilities"] == answers[5]["probabilities"]
    different = {json.dumps(answers[place]["probabilities"]) for place in (0, 3, 4)}
    assert len(different) == 3
    for row, answer in zip(rows, answers, strict=True):
        (alone,) = predictor.predict([row])
        assert alone["label"] == answer["label"]
        assert alone["probability"] == pytest.approx(answer["probability"], abs=1e-6)
    assert "without text and table" in render(answers)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "fine"}, "the row lacks image; it has text"),
        ({}, "the row lacks image; it has nothing"),
        ({"image": "x.png", "txt": "fine"}, "the model has no input 'txt'; did you mean 'text'?"),
        ({"image": "nowhere.png"}, "no image file at nowhere.png"),
        ({"image": "nowhere.png", "text": 3}, "a text is a string, not int"),
        ({"image": "0.png", "age": 3}, "the row lacks size, colour; it has age"),
        ("0.png", "this model takes several inputs: a row that maps image, text, table to values, or the file of a table"),
    ],
)
def test_what_cannot_be_used_is_told_in_its_place(folder: Path, predictor: Predictor, row: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    wrong, right = predictor.predict([row, {"image": "0.png"}])
    assert wrong["error"] == message
    assert "label" in right


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_files_of_tables(folder: Path, predictor: Predictor, kind: str) -> None:
    """Paths in them are relative to the file; a column or key that is not there is an absent input; others are left aside."""
    rows = [{"image": "0.png", "text": "good", "comment": 1}, {"image": "1.png", "text": "", "comment": 2}, {"image": "", "text": "good", "comment": 3}]
    path = folder / f"rows.{kind}"
    if kind == "csv":
        path.write_text("image,text,comment\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows))
    else:
        trimmed = [{key: value for key, value in row.items() if value != ""} for row in rows]
        path.write_text(json.dumps(trimmed) if kind == "json" else "\n".join(map(json.dumps, trimmed)))
    first, second, third = predictor.predict([path])
    assert first["input"] == f"{path}:1"
    assert first["absent"] == ["table"]
    assert second["absent"] == ["text", "table"]
    assert third["error"] == "the row lacks image; it has text"
    (direct,) = predictor.predict([{"image": folder / "0.png", "text": "good"}])
    assert direct["probability"] == pytest.approx(first["probability"], abs=1e-6)
    strange = folder / f"strange.{kind}"
    strange.write_text("a,b\n1,2\n" if kind == "csv" else '[{"a": 1}]' if kind == "json" else '{"a": 1}')
    assert "has none of the columns" in predictor.predict([strange])[0]["error"]


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that lacks one input is answered; one that cannot be used is one clear error."""
    bundle, image = str(folder / "bundle"), str(folder / "2.png")
    assert main(["predict", bundle, "--row", json.dumps({"image": image}), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["absent"] == ["text", "table"]
    assert main(["predict", bundle, "--row", "{}"]) == 2
    assert "the row lacks image" in capsys.readouterr().out
    for arguments, message in ((["--text", "x"], "--text: this model takes several inputs (image, text, table), not text"), ([], "nothing to answer for")):
        assert main(["predict", bundle, *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert """--row '{"image": "IMAGE_FILE", """ in told


def test_absent_inputs_do_not_depend_on_the_batch(folder: Path, predictor: Predictor) -> None:
    rows = [{"image": str(folder / f"{number % 3}.png")} | ({"text": "good " * number} if number % 2 else {}) for number in range(7)]
    whole = predictor.predict(rows, batch_size=7)
    for size in (1, 2, 3):
        for ours, theirs in zip(predictor.predict(rows, batch_size=size), whole, strict=True):
            assert ours["label"] == theirs["label"]
            torch.testing.assert_close(ours["probability"], theirs["probability"], atol=1e-6, rtol=1e-6)
