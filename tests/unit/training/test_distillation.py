"""A small model that learns from a large one: the paper's loss by torch's own divergence, labels in another order, samples without a label, a whole run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zoo.checks import check
from zoo.config import RunConfig
from zoo.errors import ConfigError
from zoo.heads.distilled_classification import DistilledClassificationHead
from zoo.inference.evaluate import evaluate_bundle
from zoo.inference.predictor import Predictor
from zoo.inference.teaching import places, scores_of
from zoo.specs import ClassTarget, FeatureSpec, Layout, TaughtTarget
from zoo.training.job import run_job

TARGET = TaughtTarget(name="label", labels=("a", "b", "c"))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_papers_loss(share: float) -> None:
    head = DistilledClassificationHead(features=FeatureSpec(dim=4, layout=Layout.VECTOR, pooled=True), target=TARGET, share=share, temperature=3.0)
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(6, 3, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    teacher[4] = torch.nan  # could not be read
    labels = torch.tensor([0, 2, -1, 1, 0, 2])
    valid = torch.tensor([True, True, True, True, True, False])
    targets = {"label": labels, "label_teacher": teacher}
    terms = head.loss({"logits": logits}, targets, valid)
    taught = [0, 1, 2, 3]
    divergence = nn.KLDivLoss(reduction="sum")((logits[taught] / 3).log_softmax(1), (teacher[taught] / 3).softmax(1)) * 9
    assert float(terms["distillation"].sum) == pytest.approx(share * float(divergence))
    assert float(terms["distillation"].count) == 4
    counts = head.count(targets, valid)
    assert set(counts) == set(terms)
    if share < 1:
        labelled = [0, 1, 3, 4]
        expected = nn.functional.cross_entropy(logits[labelled], labels[labelled], reduction="sum")
        assert float(terms["classification"].sum) == pytest.approx((1 - share) * float(expected))
        assert float(terms["classification"].count) == 4


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.5}, {"temperature": 0.0}])
def test_what_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        DistilledClassificationHead(features=FeatureSpec(dim=4, layout=Layout.VECTOR, pooled=True), target=TARGET, **options)  # type: ignore[arg-type]


def test_labels_are_matched_by_name() -> None:
    head = nn.Module()
    head.target = ClassTarget(name="x", labels=("c", "a", "b"))  # type: ignore[assignment]
    assert places(head, ("a", "b", "c"), "t").tolist() == [1, 2, 0]
    with pytest.raises(ConfigError, match="it lacks d; it has besides a"):
        places(head, ("d", "b", "c"), "t")
    with pytest.raises(ConfigError, match="tells no labels"):
        places(nn.Module(), ("a",), "t")


def config(folder: Path, *, head: dict[str, Any], steps: int, dim: int, labels: str = "label", **data: Any) -> RunConfig:
    table = {"name": "table", "path": str(folder / "rows.jsonl"), "text": "text", "target": labels, "split_column": "split"}
    return RunConfig.from_dict(
        {
            "name": "taught",
            "data": table | {"tokenizer": {"name": "byte"}, "max_length": 40, "batch_size": 32, "augment": {}} | data,
            "model": {"encoder": {"name": "bag", "dim": dim, "ngrams": 1}, "decoder": {"name": "none"}, "head": head},
            "optimizer": {"name": "adamw", "lr": 0.02},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": steps, "device": "cpu"},
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of the letter that stands most often in a text, and a student of another size that is shown shuffled labels and the teacher."""
    folder = tmp_path_factory.mktemp("taught")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for place in range(600):
        drawn = torch.randint(0, 3, (13,), generator=generator)
        label = "xyz"[int(drawn.bincount(minlength=3).argmax())]
        wrong = "xyz"[int(torch.randint(0, 3, (), generator=generator))]
        text = "".join("xyz"[int(letter)] for letter in drawn)
        rows.append({"text": text, "label": label, "wrong": wrong, "split": "test" if place % 10 == 9 else "train"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run_job(config(folder, head={"name": "classification"}, steps=300, dim=32), folder / "teacher")
    head = {"name": "distilled_classification", "share": 1.0}
    run_job(config(folder, head=head, steps=300, dim=8, labels="wrong", teacher=str(folder / "teacher")), folder / "student")
    return folder


def test_a_student_learns_what_the_teacher_says_and_not_the_labels(runs: Path) -> None:
    rows = [json.loads(line) for line in (runs / "rows.jsonl").read_text().splitlines()]
    asked = [row["text"] for row in rows if row["split"] == "test"]
    teacher, student = ([answer["label"] for answer in Predictor.load(runs / name).predict(asked)] for name in ("teacher", "student"))
    assert sum(one == two for one, two in zip(teacher, student, strict=True)) / len(asked) > 0.9
    truth = [row["label"] for row in rows if row["split"] == "test"]
    assert sum(one == two for one, two in zip(truth, student, strict=True)) / len(asked) > 0.85


def test_it_is_measured_anew_and_scores_are_the_teachers_own(runs: Path) -> None:
    figures = json.loads((runs / "student" / "result.json").read_text())["metrics"]
    again = evaluate_bundle(runs / "student").evaluation.figures
    assert again["test/accuracy"] == figures["test/accuracy"]
    assert again["test/loss"] == pytest.approx(figures["test/loss"], rel=1e-5)
    predictor = Predictor.load(runs / "teacher")
    from zoo.build import build_dataset

    opened = build_dataset(config(runs, head={"name": "classification"}, steps=1, dim=8)).open()
    scores = scores_of(predictor, opened.splits["test"])
    answers = predictor.predict([opened.splits["test"].read(place)["text"] for place in range(5)])
    for row, answer in zip(scores, answers, strict=False):
        shares = dict(zip(("x", "y", "z"), row.softmax(0).tolist(), strict=True))
        assert answer["probabilities"] == pytest.approx(shares, abs=1e-6)


def test_a_teacher_that_nobody_listens_to(runs: Path) -> None:
    with pytest.raises(ConfigError, match="does not learn from a teacher"):
        check(config(runs, head={"name": "classification"}, steps=1, dim=8, teacher=str(runs / "teacher")))
    with pytest.raises(ConfigError, match="distilled_classification"):
        check(config(runs, head={"name": "distilled_classification"}, steps=1, dim=8))
    with pytest.raises(ConfigError, match=r"data\.teacher.*one target of single labels"):
        check(config(runs, head={"name": "regression"}, steps=1, dim=8, target_kind="number", teacher=str(runs / "teacher")))
