"""R22: a run goes on, and starts from other weights, only with data whose entries mean the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.config import RunConfig
from zoo.data.agreement import codec_differences
from zoo.data.codecs.label import ClassCodec, NumberCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError, DataError
from zoo.hub.export import export_run
from zoo.training.job import run_job
from zoo.training.trainer import Trainer

GOOD, BAD = (
    ["fine lovely film", "a lovely evening", "so fine a story", "lovely lovely people"],
    ["dull grey film", "a grey evening", "so dull a story", "grey people"],
)


def table(path: Path, *, labels: tuple[str, str] = ("good", "bad"), word: str = "film", more: int = 0) -> Path:
    rows = [(text.replace("film", word), label) for texts, label in ((GOOD, labels[0]), (BAD, labels[1])) for text in texts]
    rows += [(f"more of {number}", labels[0]) for number in range(more)]
    split = ["train", "train", "train", "test"] * 2 + ["train"] * more
    path.write_text("review,label,split\n" + "".join(f"{text},{label},{part}\n" for (text, label), part in zip(rows, split, strict=True)))
    return path


def config(data: Path, /, **changes: Any) -> RunConfig:
    node: dict[str, Any] = {"name": "table", "path": str(data), "text": "review", "target": "label", "split_column": "split", "max_length": 16}
    node |= {"tokenizer": {"name": "wordpiece", "vocab_size": 100}, "batch_size": 4, "augment": {}}
    tree = {
        "name": "reviews",
        "data": node,
        "model": {"encoder": {"name": "transformer", "dim": 8, "depth": 1, "heads": 2}, "decoder": {"name": "none"}, "head": {"name": "classification"}},
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "constant"},
        "trainer": {"max_epochs": None, "max_steps": 4, "checkpoint_every": 2, "device": "cpu"},
    }
    return RunConfig.from_dict(tree | changes)


def start(run_dir: Path, settings: RunConfig) -> Path:
    run_dir.mkdir()
    settings.save(run_dir / "config.yaml")
    run_job(settings, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agreement")
    return start(folder / "run", config(table(folder / "data.csv")))


def test_the_processor_is_there_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails in its first step keeps how its inputs were prepared, with the splits' sizes."""

    def fail(self: Trainer) -> None:
        raise RuntimeError("before the first step")

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(RuntimeError, match="before the first step"):
        start(tmp_path / "run", config(table(tmp_path / "data.csv")))
    kept = tmp_path / "run" / "processor"
    assert Processor.load(kept).targets["label"].spec.labels == ("bad", "good")
    assert json.loads((kept / "data.json").read_text())["splits"] == {"train": 6, "test": 2}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": ("fine", "bad")}, "target label: labels: number 1 is 'good' -> 'fine'"),
        ({"word": "opera"}, "input text: tokenizer.json"),
        ({"more": 3}, "split train: 6 samples -> 9"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(run_dir: Path, changes: dict[str, Any], told: str) -> None:
    """R22: the same config, another file behind it."""
    data = run_dir.parent / "data.csv"
    before = data.read_text()
    table(data, **changes)
    try:
        with pytest.raises(DataError, match=r"(?s)has changed since the run.*zoo train rerun=") as error:
            run_job(RunConfig.load(run_dir / "config.yaml"), run_dir)
        assert told in str(error.value)
        if "more" not in changes:  # vocabularies may not change, whatever is allowed
            with pytest.raises(DataError, match="has changed"):
                run_job(config(data, allow=["data"]), run_dir)
    finally:
        data.write_text(before)
    run_job(RunConfig.load(run_dir / "config.yaml"), run_dir)


def test_an_unfinished_run_is_exported_without_its_data(run_dir: Path, tmp_path: Path) -> None:
    """The data may be gone or another by then: the run's own processor is used, not one that is fitted again."""
    data, moved = run_dir.parent / "data.csv", tmp_path / "moved.csv"
    data.rename(moved)
    (run_dir / "bundle").rename(tmp_path / "bundle")
    try:
        export_run(run_dir, tmp_path / "exported", checkpoint="2")
        (run_dir / "processor").rename(tmp_path / "processor")
        with pytest.raises(CheckpointError, match="keeps no processor/"):
            export_run(run_dir, tmp_path / "again")
    finally:
        (tmp_path / "processor").rename(run_dir / "processor")
        (tmp_path / "bundle").rename(run_dir / "bundle")
        moved.rename(data)
    for name in ("processor.json", "text/tokenizer.json"):
        assert (tmp_path / "exported" / "processor" / name).read_bytes() == (run_dir / "bundle" / "processor" / name).read_bytes()
    assert "data.csv" in (tmp_path / "exported" / "README.md").read_text()


def test_what_counts_as_a_vocabulary() -> None:
    def of(labels: list[str], counts: list[int]) -> ClassCodec:
        return ClassCodec(name="label", labels=labels, counts=counts)

    (counts,) = codec_differences("target label", of(["a", "b"], [1, 2]), of(["a", "b"], [2, 2]))
    assert (counts.entry, counts.vocabulary) == ("counts", False)
    (labels,) = codec_differences("target label", of(["a", "b"], [1, 2]), of(["b", "a"], [1, 2]))
    assert (labels.entry, labels.vocabulary) == ("labels", True)
    first, last = (NumberCodec(name="n", columns=["x"], mean=[mean], std=[1.0]) for mean in (0.1 + 0.2, 0.3))
    assert codec_differences("target n", first, last) == []  # as another number of threads adds it up


@pytest.mark.parametrize("what", ["bundle", "run", "checkpoint", "file"])
def test_weights_are_not_taken_over_under_other_labels(run_dir: Path, tmp_path: Path, what: str) -> None:
    """R6: labels of equal number; with the head left out it goes."""
    sources = {
        "bundle": run_dir / "bundle",
        "run": run_dir,
        "checkpoint": run_dir / "checkpoints" / "step_00000004",
        "file": run_dir / "bundle" / "model.safetensors",
    }
    data = table(tmp_path / "data.csv", labels=("good", "awful"))
    with pytest.raises(CheckpointError, match=r"(?s)target label: labels: .*'awful'.*head\..*init_skip=\[head\]"):
        start(tmp_path / "refused", config(data, init=str(sources[what])))
    report = json.loads((start(tmp_path / "run", config(data, init=str(sources[what]), init_skip=["head"])) / "init.json").read_text())
    assert report["compared"] is True
    assert all(name.startswith("head.") for name in report["skipped"])


def test_weights_are_not_taken_over_under_another_tokenizer(run_dir: Path, tmp_path: Path) -> None:
    """R6: a vocabulary of the same size with another word in it; the ways out that are named work."""
    data = table(tmp_path / "data.csv", word="mlif")  # the same letters
    with pytest.raises(CheckpointError, match=r"(?s)input text: tokenizer.json.*encoder\..*data.tokenizer.path=\S+/processor/text") as error:
        start(tmp_path / "refused", config(data, init=str(run_dir)))
    path = str(error.value).split("data.tokenizer.path=")[1].split("\n")[0]
    node = config(data).to_dict()["data"]
    start(tmp_path / "tokenizer", config(data, init=str(run_dir), data=node | {"tokenizer": node["tokenizer"] | {"path": path}}))
    start(tmp_path / "skipped", config(data, init=str(run_dir), init_skip=["encoder"]))
