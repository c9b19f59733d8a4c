"""What a card says of the weights that a run started from: a chain of runs down to a record, licences that differ, and no path of the machine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from zoo.cli.main import main
from zoo.config import RunConfig
from zoo.hub.bundle import CONFIG
from zoo.hub.lineage import hub_base, lineage, lineage_of
from zoo.hub.resolve import pretrained
from zoo.training.job import run_job

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def train(folder: Path, init: str | None, name: str) -> Path:
    """A run of one step with what ``zoo train`` leaves in its directory."""
    model = {"encoder": {"name": "mlp", "dims": [4]}, "decoder": {"name": "none"}, "head": {"name": "classification"}}
    options: dict[str, Any] = {"optimizer": {"name": "sgd"}, "schedule": {"name": "constant"}, "trainer": {"max_epochs": None, "max_steps": 1, "device": "cpu"}}
    config = RunConfig.from_dict({"name": name, "init": init, "data": {"name": "digits", "batch_size": 8, "augment": {}}, "model": model} | options)
    run_job(config, folder)
    config.save(folder / CONFIG)
    (folder / "overrides.yaml").write_text(json.dumps([f"init={init}", f"data.root={folder}/digits", "trainer.max_steps=1"]))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and one that starts from it."""
    folder = tmp_path_factory.mktemp("lineage")
    first = train(folder / "first", None, "sentences")
    return first, train(folder / "second", str(first / "bundle"), "reviews")


def front_and_text(run: Path) -> tuple[dict[str, Any], str]:
    text = (run / "bundle" / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_a_chain_of_runs_is_followed_to_the_record(runs: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The card names the base of the base with its licence; the licence given is told beside it, in the card and by the command."""
    first, second = runs
    tree = yaml.safe_load((first / CONFIG).read_text())
    (first / CONFIG).write_text(yaml.safe_dump(tree | {"init": "minilm_l6"}))
    try:
        assert main(["card", str(second), "--licence", "MIT"]) == 0
    finally:
        (first / CONFIG).write_text(yaml.safe_dump(tree))
    front, text = front_and_text(second)
    assert (front["base_model"], front["base_model_relation"], front["license"]) == (MINILM, "finetune", "mit")
    assert "an unpublished run of zoo, `sentences`, which started from the pretrained model `minilm_l6` (licence Apache-2.0; from" in text
    told = "The licence given for these weights, MIT, is another than that of `minilm_l6`, which they start from: Apache-2.0."
    assert told in text
    assert told in capfd.readouterr().err
    assert str(first.parent) not in text
    assert "data.root=digits" in text


def test_what_is_known_where_less_is(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = runs
    assert lineage_of(first) == ()
    assert [base.name for base in lineage_of(second)] == ["sentences"]
    gone = lineage({"init": str(tmp_path / "no" / "longer" / "bundle")})
    assert [(base.name, base.own) for base in gone] == [("longer", True)]
    [repository] = lineage({"init": "hf://org/name@main"})
    assert (repository.repo, repository.licence) == ("org/name", None)
    [library] = lineage({"model": {"encoder": {"name": "timm", "model": "resnet18", "weights": "pretrained"}}})
    assert (library.name, library.repo) == ("timm://resnet18", None)
    copied = shutil.copytree(pretrained()["digits_cnn"], tmp_path / "mine")
    [bundle] = lineage({"init": str(copied)})
    assert (bundle.name, bundle.licence) == ("digits", "mit")
    (tmp_path / "mine" / "conversion.json").write_text(json.dumps({"source": "hf://org/name@main"}))
    assert hub_base(lineage({"init": str(copied)})) == "org/name"
    loop = tmp_path / "loop"
    loop.mkdir()
    (loop / "overrides.yaml").write_text("[]")
    (loop / CONFIG).write_text(yaml.safe_dump({"name": "loop", "init": str(loop)}))
    assert {base.name for base in lineage_of(loop)} == {"loop"}


def test_intended_use_and_licence_stand_in_every_card(runs: tuple[Path, Path]) -> None:
    """Also before `zoo card`; the licence of the weights is no fact about the data; what was typed takes the place of what was derived."""
    first, second = runs
    front, text = front_and_text(first)
    assert "base_model" not in front
    use = "## Intended use\n\nImage classification: an image in, one of 10 classes (`0`, "
    limit = "Nothing else than `digits` was evaluated: no other data, task or use."
    assert use in text
    assert limit in text
    assert "from random values" in text
    assert main(["card", str(second), "--licence", "MIT", "--use", "Digits."]) == 0
    front, text = front_and_text(second)
    assert f"## Intended use\n\nDigits. {limit}" in text
    data, origin = text.partition("## Data\n")[2].split("\n## ")[:2]
    assert "MIT" not in data
    assert origin.startswith("Origin and licence of the weights")
    assert "Licence of these weights: MIT." in origin


def test_licences_are_the_hubs(runs: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    """In any case; others are refused before a card is written."""
    first, _ = runs
    assert main(["card", str(first), "--licence", "Apache-2.0"]) == 0
    assert front_and_text(first)[0]["license"] == "apache-2.0"
    assert main(["card", str(first), "--licence", "other"]) == 0
    before = front_and_text(first)
    capfd.readouterr()
    for wrong, near in (("not a licence", "way out"), ("apache2", "way out 1: apache-2.0")):
        assert main(["card", str(first), "--licence", wrong]) == 2
        told = capfd.readouterr().err
        assert f"--licence {wrong}: the Hugging Face Hub has no licence of that name" in told
        assert near in told
        assert "other, for a licence" in told
    assert front_and_text(first) == before


def test_a_card_is_of_a_run(runs: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no run cannot be gone on with; a run that has not ended can."""
    first, _ = runs
    (tmp_path / "config.json").write_text("{}")
    unfinished = shutil.copytree(first, tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    for place, problem, way_out in (
        (tmp_path / "nosuch", "there is no such run", "runs/NAME/TIME"),
        (tmp_path, "it is no run's directory", "runs/NAME/TIME"),
        (first / "bundle", "it is no run's directory", str(first)),
        (unfinished, "no finished run", f"zoo train resume={unfinished}"),
    ):
        assert main(["card", str(place)]) == 2
        told = capfd.readouterr().err
        assert problem in told
        assert told.rstrip().endswith(way_out)
        assert ("resume=" in told) is (place == unfinished)
