"""`zoo predict` refuses what it cannot use as early as it can be known, and loses no answer for a bad input beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.bundles import make_bundle
from zoo.cli.main import main

LONG = "a text that is much too long to be the name of a file, " * 8


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Standard error of a command that answers nothing."""
    assert main(["predict", *words]) == code, words
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("L", (20, 10), 128).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "0"], "--tokens: '0' has to be a whole number, 1 or more"),
        (["--tokens", "many"], "--tokens: 'many' has to be a whole number, 1 or more"),
        (["--temperature", "nan"], "--temperature: 'nan' has to be a number, 0 or more"),
        (["--temperature", "-1"], "--temperature: '-1' has to be a number, 0 or more"),
        (["--temperature", "inf"], "--temperature: 'inf' has to be"),
        (["--seed", "-1"], "--seed: '-1' has to be a whole number, 0 or more"),
        (["--top", "0"], "--top: '0' has to be"),
        (["--batch-size", "-3"], "--batch-size: '-3' has to be"),
        (["--row", "{"], "--row '{': not JSON"),
        (["--row", "[1]"], "a row is an object"),
    ],
)
def test_values_are_refused_before_the_model_is_looked_for(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the name that was typed; there is no such model."""
    error = told(capsys, "no_such_model", "--text", "hi", *words)
    assert message in error
    assert "max_tokens" not in error
    assert "no_such_model" not in error


@pytest.mark.parametrize(
    ("bundle", "words", "message"),
    [
        ("digits_cnn", ["--temperature", "0.5"], "--temperature 0.5: is for models that give continuations of a text; this one gives labels"),
        ("digits_cnn", ["--temperature", "0"], "without --temperature"),
        ("digits_cnn", ["--tokens", "64"], "--tokens 64: is for models that give continuations"),
        ("digits_cnn", ["--seed", "0"], "--seed 0: is for models that give continuations"),
        ("bible_lm", ["--text", "My son,", "--top", "3"], "--top 3: is for models that give labels or rankings; this one gives continuations"),
        ("bible_lm", ["--text", "My son,", "--seed", "3"], "way out: --temperature 0.7 --seed 3"),
        ("bible_lm", ["--text", "My son,", "--temperature", "0", "--seed", "3"], "--seed 3: with --temperature 0 the likeliest token is taken each time"),
    ],
)
def test_options_that_would_change_nothing_are_refused(bundle: str, words: list[str], message: str, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in told(capsys, bundle, *([] if "--text" in words else [picture]), *words)


@pytest.mark.parametrize("name", ["x" * 300, "~nosuchuser/x"])
@pytest.mark.parametrize("command", [["predict", "--text", "hi"], ["eval"]])
def test_a_name_that_cannot_be_a_path_is_told_as_no_model(name: str, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command[0], name, *command[1:]]) == 2
    error = capsys.readouterr().err
    assert "there is no such folder" in error or "nor the name of a pretrained model" in error
    assert "way out" in error


def test_a_file_of_a_user_that_there_is_not_costs_no_answer_beside_it(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "digits_cnn", picture, "~nosuchuser/b.png", "--json"]) == 2
    good, bad = json.loads(capsys.readouterr().out)
    assert "label" in good
    assert "~nosuchuser/b.png" in bad["input"]
    assert "error" in bad


def test_help_names_every_kind_of_model_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--help"]) == 0
    told = capsys.readouterr().out.partition("\n\n")[2].partition("\n\n")[0]
    assert all(kind in told for kind in ("a bundle", "a run's directory", "the name of a pretrained model", "as transformers", "hf://"))


@pytest.mark.parametrize(("kind", "gives"), [("table", "numbers"), ("several", "labels")])
def test_what_other_models_give(kind: str, gives: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(make_bundle(kind, tmp_path / kind))
    assert f"this one gives {gives}" in told(capsys, bundle, "--row", "{}", "--tokens", "3")
    assert ("--top 3: is for" in told(capsys, bundle, "--row", "{}", "--top", "3")) if gives == "numbers" else main(["predict", bundle, "--row", "{}"]) == 2


def test_a_ranking_has_a_length_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(make_bundle("history", tmp_path / "history"))
    assert main(["predict", bundle, "--user", "ann", "--top", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["top"]) == 3
    assert f"way out: for a user: zoo predict {bundle} --user 196" in told(capsys, bundle, "196")


@pytest.mark.parametrize("text", ["a cat", "is it a cat?", LONG])
def test_a_text_is_no_file(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told before the model is fetched, which is neither in this cache nor to be had."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    error = told(capsys, "minilm_l6", text)
    assert f"{text!r}: no " in error
    assert f"for a text itself: zoo predict minilm_l6 --text '{text}'" in error


def test_missing_files_are_told_before_a_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    absent, wildcard = str(tmp_path / "absent.png"), str(tmp_path / "*.jpg")
    assert f"{absent!r}: no such file" in told(capsys, "efficientnet_lite0", absent)
    assert f"{wildcard!r}: no file matches" in told(capsys, "efficientnet_lite0", wildcard)
    assert f"{wildcard}: no file matches" in told(capsys, "efficientnet_lite0", picture, wildcard)
    assert "if the model takes text" in told(capsys, "hf://org/name@main", absent)
    assert "nothing to answer for" in told(capsys, "efficientnet_lite0")
    assert "did you mean 'digits_cnn'?" in told(capsys, "digits_cn", absent)
    assert "offline" in told(capsys, "efficientnet_lite0", picture).lower(), "the next thing is the download"


def test_a_bad_input_costs_no_answer_beside_it(picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.png").write_bytes(Path(picture).read_bytes()[:40])
    words = [picture, str(tmp_path / "cut.png"), str(tmp_path / "absent.png"), LONG, picture]
    assert main(["predict", "digits_cnn", *words, "--json"]) == 2
    out, err = capsys.readouterr()
    answers = json.loads(out)
    assert ["error" in answer for answer in answers] == [False, True, True, True, False]
    assert answers[0] == answers[4]
    assert "3 of 5 inputs could not be used" in err


def test_a_device_that_is_none_is_told_by_its_option(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = told(capsys, "digits_cnn", picture, "--device", "cdua")
    assert "--device cdua: 'cdua' is no device\n  way out: --device auto" in error
    assert "trainer" not in error


def test_refusals_load_nothing(picture: str) -> None:
    """R24: proven in a fresh process, command after command."""
    script = f"""
import sys
from zoo.cli.main import main
for words in (["--help"], ["tweet_lstm", "--text", "x", "--batch-size", "0"], ["tweet_lstm", "--text", "x", "--row", "x"]):
    assert main(["predict", *words]) == (0 if words == ["--help"] else 2), words
    assert not {{"torch", "hydra", "numpy", "yaml"}} & set(sys.modules), words
for words in (["digits_cnn", "absent.png"], ["digits_cnn", {picture!r}, "--tokens", "3"], ["bible_lm", {picture!r}, "--seed", "3"],
              ["tweet_lstm", "what a day"], ["tweet_lstm", "--user", "3"]):
    assert main(["predict", *words]) == 2, words
    assert not {{"torch", "hydra"}} & set(sys.modules), words
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_how_a_text_is_written_is_checked_before_the_model_is_loaded(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--top-p", "0.9"], "top_p=0.9: without a temperature"),
        (["--beams", "2", "--temperature", "1"], "temperature=1.0 with beams=2"),
        (["--stream", "--beams", "3"], "--stream: 3 beams are compared when they are done"),
        (["--stop", ""], "has an empty text"),
    ):
        assert said in told(capsys, "bible_lm", "--text", "a", *words)
    assert main(["predict", "bible_lm", "--text", "a", "--stream", "--json"]) == 2
    assert "--stream: with --json there is one document" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert "--repetition-penalty 2.0: is for models that give continuations" in told(capsys, "digits_cnn", picture, "--repetition-penalty", "2")
    assert "--stop x y: is for models that give continuations" in told(capsys, "digits_cnn", picture, "--stop", "x", "--stop", "y")


def test_a_stream_is_what_predict_says(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bible_lm", "--text", "In the beginning", "--tokens", "20", "--temperature", "0.5", "--top-k", "9"]
    assert main(["predict", *words, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert main(["predict", *words, "--stream"]) == 0
    assert capsys.readouterr().out == answer["continuation"] + "\n"
    assert main(["predict", *words, "--stop", answer["continuation"][-4:]]) == 0
    assert answer["continuation"][-4:] not in capsys.readouterr().out.splitlines()[-1].removeprefix("In the beginning")
