"""zoo train, as people type it (R11, R14, R24)."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from zoo.cli.main import main
from zoo.config import RunConfig
from zoo.training.tensors import read_tensors

TINY = ["logger=none", "model/encoder=mlp_tiny", "trainer.max_steps=2", "trainer.eval_every=2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    given = main(["train", *arguments, "--json"])
    told = capfd.readouterr()
    assert given == code, told.err
    return json.loads(told.out)


def losses(run: str) -> list[float]:
    rows = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    return [row["validation/loss"] for row in rows if "validation/loss" in row]


def test_one_run_one_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R11, R24: nothing of Hydra's, the working directory stays, no = in a file name; the JSON is alone on standard output."""
    result = train(capfd, *TINY, "name=first")
    assert {"run", "bundle", "metrics", "seconds", "parameters"} <= set(result)
    assert "test/accuracy" in result["metrics"]
    assert Path.cwd() == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (run,) = (tmp_path / "runs" / "first").iterdir()
    assert run.resolve() == Path(result["run"]).resolve()
    assert yaml.safe_load((run / "overrides.yaml").read_text()) == [*TINY, "name=first"]
    assert RunConfig.load(run / "config.yaml").trainer.max_steps == 2
    assert not [path for path in tmp_path.rglob("*") if "=" in path.name or path.name == ".hydra" or path.suffix == ".log"]


def test_samples_that_were_left_out_are_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R5: no sample vanishes in silence."""
    for split in ("train", "validation"):
        for number, label in enumerate(("cat", "cat", "dog")):
            path = tmp_path / "photos" / split / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 80 * number).save(path)
    broken = tmp_path / "photos" / "train" / "cat" / "1.png"
    broken.write_bytes(b"nothing")
    given = main(["train", *TINY, "data=image_folder", f"data.root={tmp_path / 'photos'}", "data.image_size=8", "data.channels=1", "--json"])
    told = capfd.readouterr()
    assert given == 0, told.err
    assert told.err.count(f"{broken} is left out: cannot be decoded") == 1
    listed = json.loads((Path(json.loads(told.out)["run"]) / "bad_samples.json").read_text())
    assert list(listed) == ["train"]
    assert list(listed["train"]) == [str(broken)]


def test_rerun_gives_the_same_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    """R14: from the directory alone, and with an override on top."""
    first = train(capfd, *TINY, "seed=3")
    again = train(capfd, f"rerun={first['run']}")
    assert RunConfig.load(Path(again["run"]) / "config.yaml").hash() == RunConfig.load(Path(first["run"]) / "config.yaml").hash()
    assert again["run"] != first["run"]
    assert losses(again["run"]) == losses(first["run"])
    other = train(capfd, f"rerun={first['run']}", "seed=4")
    assert losses(other["run"]) != losses(first["run"])


def test_a_trial_that_fails_stops_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R11, R24: one directory for each trial; the end says which failed, and why."""
    told = train(capfd, "-m", *TINY, "trainer.accumulate=1,1000,2", code=2)
    assert [trial["outcome"] for trial in told["trials"]] == ["done", "failed", "done"]
    assert told["trials"][1]["error"]["path"] == "data.batch_size"
    (sweep,) = (tmp_path / "runs" / "digits").iterdir()
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1", "2"]
    assert {path.name for path in sweep.iterdir() if path.is_file()} == {"multirun.yaml"}
    assert not [path for path in tmp_path.rglob("*") if "=" in path.name]
    assert (sweep / "2" / "bundle").is_dir()
    assert not (sweep / "1" / "config.yaml").exists()


def test_a_sweep_with_a_wrong_name_starts_no_trial(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(capfd, "-m", *TINY, "model/encoder=mlp_tiny,mlp_tinny", code=2)
    assert not list(tmp_path.rglob("bundle"))


def test_a_directory_that_holds_a_run_is_not_written_over(capfd: pytest.CaptureFixture[str]) -> None:
    train(capfd, *TINY, "run_dir=here")
    before = Path("here/config.yaml").read_text()
    assert train(capfd, *TINY, "run_dir=here", "seed=1", code=2)["error"]["path"] == "run_dir"
    assert Path("here/config.yaml").read_text() == before


def test_data_that_is_not_there_leaves_no_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    error = train(capfd, *TINY, "data=image_folder", "data.root=nowhere", code=2)["error"]
    assert "nowhere" in error["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("given", [[], ["run_dir=some/where"], ["run_dir=mine"]])
def test_weights_that_do_not_fit_leave_no_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str], processes: int, given: list[str]) -> None:
    """The data is kept and the model is built by then; what was there before stays, and the same command may be given again."""
    source = train(capfd, *TINY, "run_dir=source")["run"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the user's")
    before = sorted(tmp_path.rglob("*"))
    wrong = [*TINY, f"init={source}", "model.encoder.dims=[7]", f"parallel.processes={processes}", *given]
    for _ in range(2):
        train(capfd, *wrong, code=2)
        assert sorted(tmp_path.rglob("*")) == before
    train(capfd, *wrong, "init_skip=[encoder,head]")


def test_a_run_that_has_begun_keeps_its_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A mistake of the user's after the first step; one that is gone on with and refused keeps everything."""
    diverging = [*TINY, "optimizer=sgd", "optimizer.lr=1e30", "trainer.clip_norm=null", "trainer.max_steps=20", "trainer.log_every=1", "run_dir=begun"]
    train(capfd, *diverging, code=2)
    assert {"config.yaml", "log.jsonl"} <= {path.name for path in (tmp_path / "begun").iterdir()}
    train(capfd, *TINY, "run_dir=whole")
    before = sorted(tmp_path.rglob("*"))
    train(capfd, "resume=whole", "trainer.max_steps=1", code=2)
    assert sorted(tmp_path.rglob("*")) == before


RENAMES = ["init_rename.encoder.blocks.0=encoder.blocks.1", "init_rename={encoder.blocks.0: encoder.blocks.1}"]


@pytest.mark.parametrize("line", RENAMES)
def test_weights_of_a_part_under_another_name(capfd: pytest.CaptureFixture[str], line: str) -> None:
    """Frozen, they are found in the bundle as they were in the source, under the model's name."""
    sizes = ["model.encoder.dim=8", "model.encoder.depth=2", "model.encoder.heads=2", "model.encoder.patch_size=4"]
    tiny = ["logger=none", "model/encoder=vit", *sizes, "trainer.max_steps=1"]
    source = read_tensors(Path(train(capfd, *tiny, "run_dir=source")["bundle"]) / "model.safetensors")
    result = train(capfd, *tiny, "seed=1", "init=source", line, "trainer.freeze=[encoder]")
    found = read_tensors(Path(result["bundle"]) / "model.safetensors")
    taken = [name for name in source if name.startswith("encoder.blocks.0.")]
    assert taken
    assert all(torch.equal(found[name.replace(".0.", ".1.", 1)], source[name]) for name in taken)
    assert not all(torch.equal(found[name], source[name]) for name in taken)  # the first block is another seed's
    assert set(json.loads((Path(result["run"]) / "init.json").read_text())["renamed"].values()) == set(taken)


BROKEN = '''
    from zoo.registry import CALLBACKS
    from zoo.training.callbacks import Callback

    @CALLBACKS.register("breaks")
    class Breaks(Callback):
        """Raises."""

        def evaluated(self, progress, monitor):
            raise LookupError("of their own")
'''


def test_the_users_own_exception_comes_first(tmp_path: Path) -> None:
    """R24, hydra#2289: in a fresh process; exit code 1, their line, no traceback unless asked for."""
    (tmp_path / "breaks.py").write_text(textwrap.dedent(BROKEN))
    command = [sys.executable, "-m", "zoo.cli.main", "train", *TINY, "--import", "breaks.py", "callback=breaks"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    told = done.stderr[done.stderr.index("error:") :]
    assert told.startswith("error: LookupError: of their own\n  raised at")
    assert f"{tmp_path}/breaks.py" in told
    assert "Traceback" not in told


def test_hydras_own_options(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """R24: what Hydra's users know."""
    for arguments, wanted in (
        (["--cfg", "job", "seed=3"], "seed: 3"),
        (["--cfg", "hydra"], "hydra:"),
        (["--cfg", "all"], "hydra:"),
        (["--cfg", "job", "--package", "trainer"], "# @package trainer"),
        (["--cfg", "job", "--resolve", "data.workers=${seed}"], "workers: 0"),
        (["--info", "defaults"], "Defaults List"),
        (["--info", "searchpath"], "Search path"),
        (["--hydra-help"], "hydra/launcher"),
    ):
        assert main(["train", *arguments]) == 0
        told = capfd.readouterr()
        assert wanted in told.out + told.err, arguments
    assert not list(tmp_path.iterdir())


def test_check_and_show_touch_no_data(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("check", "show"):
        assert main([command, "data=fashion_mnist", "data.root=/nowhere", "model/encoder=vit", "model.encoder.patch_size=7", "--json"]) == 0
        tree = json.loads(capfd.readouterr().out)
        assert tree["parameters"] > 1000
        assert main([command, "data=fashion_mnist", "data.root=/nowhere", "model/encoder=vit_tiny"]) in (0, 2)
        capfd.readouterr()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_multirun_times_two_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R11: exactly two directories; both ranks of each trial read the one config."""
    told = train(capfd, "-m", *TINY, "seed=0,1", "parallel.processes=2")
    assert [trial["outcome"] for trial in told["trials"]] == ["done", "done"]
    (sweep,) = (tmp_path / "runs" / "digits").iterdir()
    folders = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["0", "1"]
    for folder in folders:
        assert json.loads((folder / "environment.json").read_text())["config"] == RunConfig.load(folder / "config.yaml").hash()
