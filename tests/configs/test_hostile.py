"""R1: nothing that is typed, composed or downloaded can name code to run; a canary file is never written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from zoo.cli.main import main
from zoo.compose import compose


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "canary"


def evil(canary: Path) -> dict[str, object]:
    """What Hydra's own instantiate would run: without the refusal, the callback case below writes the canary."""
    return {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.PosixPath", "_args_": [str(canary)]}}


def experiment(tree: object) -> list[str]:
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/evil.yaml").write_text("# @package _global_\n" + (tree if isinstance(tree, str) else yaml.safe_dump(tree)))
    return ["experiment=evil"]


def run_with(change: Callable[[dict], None]) -> list[str]:
    tree = yaml.safe_load(compose([]).to_yaml())
    change(tree)
    Path("old").mkdir()
    Path("old/config.yaml").write_text(yaml.safe_dump(tree))
    return ["rerun=old"]


CASES: dict[str, Callable[[Path], list[str]]] = {
    "override": lambda canary: ["++model.encoder._target_=pathlib.Path.touch"],
    "override of a node": lambda canary: ["++model.encoder={_target_: pathlib.Path.touch}"],
    "override inside a list": lambda canary: ["++init_skip=[{_target_: pathlib.Path.touch}]"],
    "partial": lambda canary: ["++optimizer._partial_=true"],
    "name that leads out": lambda canary: ["name=../../out"],
    "name that leads out of a sweep": lambda canary: ["-m", "name=../../out", "seed=0,1"],
    "swept name that leads out": lambda canary: ["-m", "name=good,../../out"],
    "component by import string": lambda canary: ["++model.encoder.name=os.system"],
    "component by path": lambda canary: ["++model.encoder.name=../../evil.py"],
    "experiment with a target": lambda canary: experiment({"model": {"encoder": evil(canary)}}),
    "experiment with a Hydra callback": lambda canary: experiment({"hydra": {"callbacks": {"evil": evil(canary)}}}),
    "experiment with another launcher": lambda canary: experiment({"hydra": {"launcher": evil(canary)}}),
    "experiment with a log handler": lambda canary: experiment(
        {"hydra": {"job_logging": {"version": 1, "root": {"handlers": ["x"]}, "handlers": {"x": {"()": "pathlib.Path.touch"}}}}}
    ),
    "experiment with an environment": lambda canary: experiment({"hydra": {"job": {"env_set": {"PYTHONPATH": "/evil"}}}}),
    "experiment with a Python object": lambda canary: experiment(f"seed: !!python/object/apply:os.system ['touch {canary}']\n"),
    "swept experiment with a callback": lambda canary: ["-m", *experiment({"hydra": {"callbacks": {"evil": evil(canary)}}}), "seed=0,1"],
    "Hydra callback on the command line": lambda canary: ["+hydra.callbacks.evil._target_=pathlib.Path.cwd"],
    "sweeper on the command line": lambda canary: ["-m", "hydra.sweeper._target_=pathlib.Path.cwd", "seed=0,1"],
    "saved run with a target": lambda canary: run_with(lambda tree: tree["model"]["encoder"].update(evil(canary))),
    "saved run with a resolver": lambda canary: run_with(lambda tree: tree.update(name="${oc.env:HOME}")),
    "saved run with an import string": lambda canary: run_with(lambda tree: tree["optimizer"].update(name="torch.optim.SGD")),
    "saved run with a surplus node": lambda canary: run_with(lambda tree: tree.update(plugins=["evil.py"])),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = CASES[name](canary)
    before = sorted(tmp_path.parent.rglob("*"))
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "way out" in error
    assert not canary.exists()
    made = [path for path in tmp_path.parent.rglob("*") if path not in before and "runs" not in path.parts]
    assert not made, "something was written outside runs/"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/object/new:os.system"])
def test_saved_run_with_a_python_object(tag: str, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("old").mkdir()
    Path("old/config.yaml").write_text(f"seed: {tag} ['touch {canary}']\n")
    for word in ("rerun", "resume"):
        assert main(["train", f"{word}=old"]) == 2
        assert "not plain YAML" in capsys.readouterr().err
    assert not canary.exists()


def test_what_is_installed_may_still_be_chosen() -> None:
    assert compose(["hydra/launcher=basic", "hydra/sweeper=basic", "hydra/job_logging=default", "+hydra.job.env_set.OMP_NUM_THREADS='1'"]).run.seed == 0
