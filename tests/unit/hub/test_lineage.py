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
from zoo.hub.export import export_bundle, export_run
from zoo.hub.lineage import hub_base, licence_notes, lineage, lineage_of
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
    assert (bundle.name, bundle.licence) == ("digits_cnn", "MIT")  # by its checksum
    with (tmp_path / "mine" / "model.safetensors").open("ab") as file:
        file.write(b" ")
    [bundle] = lineage({"init": str(copied)})
    assert (bundle.name, bundle.licence) == ("digits", "mit")
    (tmp_path / "mine" / "conversion.json").write_text(json.dumps({"source": "hf://org/name@main"}))
    assert hub_base(lineage({"init": str(copied)})) == "org/name"
    loop = tmp_path / "loop"
    loop.mkdir()
    (loop / "overrides.yaml").write_text("[]")
    (loop / CONFIG).write_text(yaml.safe_dump({"name": "loop", "init": str(loop)}))
    assert {base.name for base in lineage_of(loop)} == {"loop"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("README.md", b"---\nlicense: mit\n---\n# caf\xe9", id="no UTF-8"),
        pytest.param("README.md", b"---\nlicense: mit\ndate: 2024-13-45\n---\n", id="no date"),
        pytest.param("README.md", b"---\n? [a]\n: b\n---\n", id="no key"),
        pytest.param("metrics.json", b'{"lineage": [1]}', id="no chain"),
        pytest.param("conversion.json", b"[]", id="no mapping"),
        pytest.param("config.yaml", b"[", id="no YAML"),
    ],
)
def test_what_cannot_be_read_ends_no_training(name: str, content: bytes, tmp_path: Path) -> None:
    """The folder's facts are told as far as they can be read; the card is written."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / CONFIG).write_text("name: theirs\n")
    (folder / name).write_bytes(content)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "init.json").write_text("{")
    [base] = lineage({"init": str(folder)}, tmp_path / "run")
    assert base.name == "theirs"
    for init in ("~nobody-of-that-name/x", "https://u:secret@host/x", "x" * 5000, "nosuch://x"):
        [base] = lineage({"init": init}, tmp_path / "run")
        assert "secret" not in str(base)


def foreign(folder: Path, card: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(card)
    return folder


def test_a_folder_that_zoo_did_not_train(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    """Its licence is told where its card has one, and as not on record where not; also where it lies in a run's directory, and was converted."""
    [plain] = lineage({"init": str(foreign(runs[0] / "theirs", "text"))})
    assert (plain.name, plain.own, plain.licence) == ("theirs", False, None)
    assert "is not on record here" in licence_notes([plain], "MIT")[0]
    copy = tmp_path / "cache" / "theirs-123"
    copy.mkdir(parents=True)
    (copy / CONFIG).write_text("name: theirs\n")
    (copy / "model.safetensors").write_bytes(b"x")
    (copy / "conversion.json").write_text(json.dumps({"source": str(tmp_path / "theirs")}))
    run = tmp_path / "run"
    run.mkdir()
    (run / "init.json").write_text(json.dumps({"source": str(copy / "model.safetensors")}))
    [read] = lineage({"init": str(tmp_path / "theirs")}, run)
    assert (read.name, read.own, read.licence) == ("theirs", False, None)
    foreign(tmp_path / "theirs", "---\nlicense: llama2\nbase_model:\n- org/a\n- org/b\n---\n")
    named, merged = lineage({"init": str(tmp_path / "theirs")}, run)
    assert (named.licence, hub_base([named, merged])) == ("llama2", ["org/a", "org/b"])
    assert "the repositories `org/a` and `org/b`" in str(merged)
    [alone] = lineage({"init": str(foreign(tmp_path / "other", "---\nbase_model: /home/me/x\n---\n"))})
    assert alone.name == "other"
    (copy / CONFIG).write_text("name: minilm_l6\n")
    (copy / "conversion.json").unlink()
    [called] = lineage({"init": str(copy)})
    assert called.licence is None  # a name is anybody's to take


def test_the_chain_goes_on_behind_a_copy(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A bundle that was exported keeps what its run started from; a repository's licence is looked up among the records."""
    first, second = runs
    tree = yaml.safe_load((second / CONFIG).read_text())
    told = (second / "init.json").read_text()
    (second / CONFIG).write_text(yaml.safe_dump(tree | {"init": f"hf://{MINILM}"}))
    (second / "init.json").unlink()
    try:
        export_run(second, tmp_path / "mine", checkpoint="last")
    finally:
        (second / CONFIG).write_text(yaml.safe_dump(tree))
        (second / "init.json").write_text(told)
    export_bundle(str(tmp_path / "mine"), tmp_path / "copy")
    for place in ("mine", "copy"):
        own, base = lineage({"init": str(tmp_path / place)})
        assert (own.name, base.repo, base.licence) == ("reviews", MINILM, "Apache-2.0")
    assert front_and_text(first)[0].get("base_model") is None


def test_what_was_read_and_not_what_lies_here_now(runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that has the name of a record, or of what was typed, and a path with " with " in it."""
    kept = shutil.copytree(runs[0], tmp_path / "a with b" / "run")
    child = tmp_path / "child"
    child.mkdir()
    (child / "init.json").write_text(json.dumps({"source": f"{kept}/bundle/model.safetensors"}))
    monkeypatch.chdir(tmp_path)
    foreign(tmp_path / "minilm_l6", "text")
    for init in ("../elsewhere/run", "minilm_l6"):
        assert [base.name for base in lineage({"init": init}, child)] == ["sentences"]
    (child / "init.json").write_text(json.dumps({"source": "/gone/models/minilm_l6-123/model.safetensors"}))
    [base] = lineage({"init": "minilm_l6"}, child)
    assert base.licence == "Apache-2.0"
    (child / "init.json").write_text(json.dumps({"source": "/gone/minilm_l6/model.safetensors"}))
    [base] = lineage({"init": "minilm_l6"}, child)
    assert base.licence is None


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
