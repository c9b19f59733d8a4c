"""A finished run is used as people use it: eval, predict and export, in new processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from zoo.cli.main import main
from zoo.config import RunConfig
from zoo.errors import CheckpointError
from zoo.training.published import find_checkpoint

ROOT = Path(__file__).parents[2]
TREE = {
    "name": "used",
    "data": {"name": "digits", "batch_size": 64, "augment": {}},
    "model": {"encoder": {"name": "mlp", "dims": [32]}, "decoder": {"name": "none"}, "head": {"name": "classification"}},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "constant"},
    "trainer": {"max_epochs": None, "max_steps": 24, "eval_every": 8, "checkpoint_every": 8, "keep_last": 3, "ema": 0.9, "device": "cpu"},
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on real digits, with averaged weights."""
    from zoo.training.job import run_job

    folder = tmp_path_factory.mktemp("runs") / "used"
    folder.mkdir()
    config = RunConfig.from_dict(TREE)
    config.save(folder / "config.yaml")
    run_job(config, folder)
    return folder


def zoo(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zoo.cli.main", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)


def answer(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> Any:
    """A command's JSON document, in this process."""
    assert main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_predict_in_a_new_process_agrees_with_the_evaluation(run_dir: Path, tmp_path: Path) -> None:
    """R18: files only, no data set: the share of right answers is the test accuracy at the end of training."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number in range(4, len(digits.target), 5):
        Image.fromarray((digits.images[number] * (255 / 16)).round().astype("uint8")).save(tmp_path / f"{number:04}.png")
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys\n"
        "sys.modules['sklearn'] = None  # the data set is not there\n"
        "from zoo.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = [name for name in ('torchvision', 'timm', 'torchaudio', 'matplotlib', 'wandb', 'hydra') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, str(program), "predict", str(run_dir / "bundle"), str(tmp_path), "--json"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    right = sum(entry["label"] == str(digits.target[int(Path(entry["input"]).stem)]) for entry in answers)
    expected = json.loads((run_dir / "result.json").read_text())["metrics"]["test/accuracy"]
    assert len(answers) == 359
    assert right / 359 == pytest.approx(expected, abs=1e-6)


def test_eval_gives_the_figures_of_the_end_of_training(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R7, R18: on every split, at another batch size."""
    metrics = json.loads((run_dir / "result.json").read_text())["metrics"]
    for split in ("test", "validation"):
        result = answer(capsys, "eval", run_dir, "--split", split, "data.eval_batch_size=17")
        assert result["metrics"] == pytest.approx({name: value for name, value in metrics.items() if name.startswith(split)}, abs=1e-6)
    assert result["bundle"] == str(run_dir / "bundle")
    assert result["parameters"] == 64 * 32 + 32 + 32 * 10 + 10


def test_export_of_every_checkpoint(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best checkpoint's bundle is the run's own; any other one can be had too."""
    best = answer(capsys, "export", run_dir, "--to", tmp_path / "best")
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == (run_dir / "bundle" / "model.safetensors").read_bytes()
    assert best["metrics"]["validation/accuracy"] == json.loads((run_dir / "result.json").read_text())["metrics"]["validation/accuracy"]
    early = answer(capsys, "export", run_dir, "--to", tmp_path / "early", "--checkpoint", "8")
    assert early["step"] == 8
    measured = answer(capsys, "eval", tmp_path / "early", "--split", "validation")
    assert measured["metrics"]["validation/accuracy"] == pytest.approx(early["metrics"]["validation/accuracy"], abs=1e-6)
    with pytest.raises(CheckpointError, match="no checkpoint of step 9; there are 8, 16, 24"):
        find_checkpoint(run_dir, "9")


def test_the_commands_tell_mistakes(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R24: exit code 2, one message with the way out, nothing on standard output."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    bundle = str(run_dir / "bundle")
    for words, message in (
        (["predict"], "which model?"),
        (["predict", bundle], "nothing to answer for"),
        (["predict", bundle, "--text", "hello"], "--text: this model takes image"),
        (["predict", bundle, "--user", "5"], "--user: this model takes image"),
        (["predict", bundle, str(tmp_path / "*.jpg")], "no file matches"),
        (["predict", bundle, str(tmp_path / "full")], "no file in this folder fits"),
        (["predict", bundle, "x.png", "--tpo", "3"], "unrecognized arguments: --tpo 3"),
        (["predict", str(tmp_path / "nothing"), "x.png"], "there is no such folder"),
        (["eval"], "which run or bundle?"),
        (["eval", bundle, "--split", "tset"], "did you mean 'test'?"),
        (["eval", bundle, "model.encoder.dims=[3]"], "cannot change on a finished model"),
        (["eval", bundle, "data.imagesize=9"], "data.imagesize"),
        (["export", str(run_dir)], "where to?"),
        (["export", str(run_dir), "--to", str(tmp_path / "full")], "exists and is no bundle"),
        (["export", str(run_dir), "--to", str(tmp_path / "x"), "--checkpoint", "worst"], "best, last, or one of 8, 16, 24"),
    ):
        assert main(words) == 2, words
        told = capsys.readouterr()
        assert message in told.err, words
        assert told.out == ""
        assert "Traceback" not in told.err
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_a_broken_picture_is_one_error_among_answers(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (20, 10), 128).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    first, second = answer(capsys, "predict", run_dir, tmp_path / "a.png", tmp_path / "b.png", "--top", "2", code=2)
    assert set(first) == {"input", "label", "probability", "probabilities"}
    assert len(first["probabilities"]) == 2
    assert set(second) == {"input", "error"}
    assert main(["predict", str(run_dir), str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert first["label"] in lines[2]
    assert "cannot be decoded" in lines[3]


def test_a_run_leaves_its_log_pictures_and_next_commands(run_dir: Path) -> None:
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [8, 16, 24]
    assert {path.name for path in (run_dir / "plots").iterdir()} >= {"loss.png", "learning_rate.png", "metrics.png", "test_confusion.png"}
    for path in (run_dir / "plots").iterdir():
        with Image.open(path) as picture:
            assert picture.width > 400
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10, f"{path.name} is blank"
