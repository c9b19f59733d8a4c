"""Retrieval over a whole split: recall against scikit-learn, rows of one thing, ties, and what the contrastive head refuses."""

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torch.nn import functional as F

from zoo.heads import retrieval_metrics
from zoo.heads.contrastive import LARGEST, Comparison, ContrastiveHead
from zoo.heads.retrieval_metrics import RetrievalMetrics, ranks
from zoo.settings import Mode
from zoo.specs import FeatureSpec, Layout, PairTarget
from zoo.structs import Features
from zoo.training.state import Monitor

PAIR = PairTarget(name="pair")
TWO = FeatureSpec(dim=4, layout=Layout.SEQUENCE, length=2, parts=("image", "text"))


def test_recall_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Top-k accuracy where each row is a class of its own, in both directions, in chunks of queries."""
    monkeypatch.setattr(retrieval_metrics, "CHUNK", 7)
    vectors = F.normalize(torch.randn(40, 2, 5, generator=torch.Generator().manual_seed(2)), dim=-1)
    metrics = RetrievalMetrics(PAIR, ("image", "text"), (1, 5, 10))
    for part in (slice(0, 25), slice(25, 40)):
        metrics.update({"vectors": vectors[part]}, {"pair": torch.arange(40)[part]}, torch.ones(40, dtype=torch.bool)[part])
    metrics.merge()
    found, cosine, rows = metrics.compute(), (vectors[:, 0] @ vectors[:, 1].T).numpy(), list(range(40))
    for k in (1, 5, 10):
        there, back = (top_k_accuracy_score(rows, table, k=k) for table in (cosine, cosine.T))
        assert 0 < there < 1 or k == 1
        assert found[f"image_to_text_recall@{k}"] == pytest.approx(there)
        assert found[f"text_to_image_recall@{k}"] == pytest.approx(back)
        assert found[f"recall@{k}"] == pytest.approx((there + back) / 2)
    order = cosine.argsort(axis=1)[:, ::-1]
    assert found["image_to_text_median_rank"] == torch.tensor([1.0 + list(order[row]).index(row) for row in rows]).quantile(0.5)


def test_the_best_row_of_one_thing_counts_and_its_others_are_in_nobodys_way() -> None:
    angle = torch.tensor([0.0, 0.1, 0.2, 0.3])
    answers = torch.stack([angle.cos(), angle.sin()], dim=1)
    queries = answers[[2, 0, 0, 0]]
    assert ranks(queries, answers, torch.tensor([0, 1, 0, 0])).tolist() == [1, 2, 1, 1]


def test_a_model_that_tells_nothing_apart_gets_the_middle() -> None:
    same = F.normalize(torch.ones(11, 3), dim=-1)
    nearly = same + 1e-7 * torch.randn(11, 3, generator=torch.Generator().manual_seed(0))  # as sums in another order
    assert ranks(nearly, same, torch.arange(11)).tolist() == [6.0] * 11
    assert ranks(same[:0], same[:0], torch.arange(0)).tolist() == []


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_vectors_that_are_not_finite_have_no_figures(value: float) -> None:
    """One answer is enough: any query's rank may depend on it. Such an evaluation is never better than one that has a figure."""
    vectors = F.normalize(torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    vectors[3, 1] = value
    answers, pairs = vectors[:, 1], torch.arange(8)
    assert ranks(vectors[:, 0], answers, pairs).isnan().all()
    assert ranks(answers, vectors[:, 0], pairs).isnan().tolist() == [row == 3 for row in range(8)]
    for broken in (vectors, torch.full_like(vectors, value)):
        metrics = RetrievalMetrics(PAIR, ("image", "text"), (1, 5))
        metrics.update({"vectors": broken}, {"pair": pairs}, torch.ones(8, dtype=torch.bool))
        metrics.merge()
        found = metrics.compute()
        assert [name for name, figure in found.items() if not math.isnan(figure)] == []
        assert not Monitor("validation/mrr", Mode.MAX).better(found["mrr"], 0.1)


def scale_and_gradient(value: float) -> tuple[torch.Tensor, torch.Tensor]:
    head = ContrastiveHead(features=TWO, target=PAIR)
    with torch.no_grad():
        head.log_scale.fill_(value)
    scale = head(Features(tokens=torch.ones(3, 2, 4)))["scale"]
    scale.sum().backward()
    assert head.log_scale.grad is not None
    return scale, head.log_scale.grad


@pytest.mark.parametrize("value", [math.log(LARGEST) + 1e-5, 4.7, 9.0])
def test_a_scale_beyond_the_cap_can_come_back(value: float) -> None:
    """As CLIP's, whose parameter is itself kept below: the value is the cap's, and so is the gradient."""
    scale, gradient = scale_and_gradient(value)
    assert scale.tolist() == pytest.approx([LARGEST] * 3)
    assert gradient.tolist() == [pytest.approx(3 * LARGEST)]


@pytest.mark.parametrize("value", [-0.3, 0.0, 1.7, 2.6592, 4.605])
def test_below_the_cap_nothing_is_in_between(value: float) -> None:
    """The same bits as of the exponential alone."""
    scale, gradient = scale_and_gradient(value)
    free = torch.full((1,), value, requires_grad=True)
    wanted = free.exp().expand(3)
    wanted.sum().backward()
    assert torch.equal(scale, wanted)
    assert free.grad is not None
    assert torch.equal(gradient, free.grad)


def test_answers_and_the_learned_scale() -> None:
    head = ContrastiveHead(features=TWO, target=PAIR, loss=Comparison.SIGMOID, temperature=0.1, bias=-3.0)
    tokens = torch.tensor([[[1.0, 0, 0, 0], [3.0, 0, 0, 0]], [[1.0, 0, 0, 0], [0, 0, 2.0, 0]]])
    prediction = head(Features(tokens=tokens))
    assert head.decode(prediction, {}) == [
        {"similarity": 1.0, "probability": pytest.approx(float(torch.sigmoid(torch.tensor(10.0 - 3.0))))},
        {"similarity": 0.0, "probability": pytest.approx(float(torch.sigmoid(torch.tensor(-3.0))))},
    ]
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    assert head(Features(tokens=tokens))["scale"].tolist() == pytest.approx([100.0, 100.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.001}, "temperature=0.001 is not between 0.01 and 1"),
        ({"k": (0, 5)}, r"k=\[0, 5\]"),
        ({"features": FeatureSpec(dim=4, layout=Layout.VECTOR, pooled=True)}, "gets a vector that does not keep inputs apart; choose model/encoder=dual"),
    ],
)
def test_values_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastiveHead(**({"features": TWO, "target": PAIR} | options))
