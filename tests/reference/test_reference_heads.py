"""Losses against torch, metrics against scikit-learn and against a loop that follows the definition."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn import metrics as reference
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from zoo.heads.classification import ClassificationHead, ClassWeights
from zoo.heads.next_item import ItemLoss, NextItemHead
from zoo.heads.ranking_metrics import RankingMetrics
from zoo.heads.regression import RegressionHead, RegressionLoss
from zoo.layers.dropout import name_randomness
from zoo.random import SampleRandom, sample_randomness
from zoo.specs import ClassTarget, FeatureSpec, ItemTarget, Labelling, Layout, NumberTarget
from zoo.structs import Features

VECTOR = FeatureSpec(dim=6, layout=Layout.VECTOR, pooled=True)
CAUSAL = FeatureSpec(dim=6, layout=Layout.SEQUENCE, causal=True)
SINGLE = ClassTarget(name="label", labels=("a", "b", "c", "d", "e"), counts=(50, 20, 5, 1, 24))
MULTI = ClassTarget(name="tags", labels=("x", "y", "z"), labelling=Labelling.MULTI, counts=(10, 20, 70))
ITEMS = ItemTarget(name="next", num_items=40)


@pytest.fixture
def rows() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", list(ClassWeights))
def test_single_label_loss_is_torchs(rows: torch.Generator, smoothing: float, weights: ClassWeights) -> None:
    """sum / count is torch's weighted mean, with smoothing, over known and valid rows only."""
    head = ClassificationHead(features=VECTOR, target=SINGLE, label_smoothing=smoothing, class_weights=weights)
    logits, labels = torch.randn(40, 5, generator=rows), torch.randint(0, 5, (40,), generator=rows)
    labels[3:6], valid = -1, torch.arange(40) % 7 != 0
    term = head.loss({"logits": logits}, {"label": labels}, valid)["classification"]
    samples = np.repeat(np.arange(5), SINGLE.counts)
    balanced = torch.tensor(compute_class_weight("balanced", classes=np.arange(5), y=samples)).float()
    known = valid & (labels >= 0)
    expected = F.cross_entropy(logits[known], labels[known], balanced if weights is ClassWeights.BALANCED else None, label_smoothing=smoothing)
    torch.testing.assert_close(term.sum / term.count, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_multi_label_loss_is_torchs(rows: torch.Generator, smoothing: float) -> None:
    head = ClassificationHead(features=VECTOR, target=MULTI, label_smoothing=smoothing)
    logits, tags = torch.randn(20, 3, generator=rows), torch.randint(0, 2, (20, 3), generator=rows).float()
    valid = torch.arange(20) % 3 != 0
    term = head.loss({"logits": logits}, {"tags": tags}, valid)["classification"]
    expected = F.binary_cross_entropy_with_logits(logits[valid], tags[valid] * (1 - smoothing) + smoothing / 2)
    torch.testing.assert_close(term.sum / term.count, expected)


@pytest.mark.filterwarnings("ignore:.*ill-defined.*")
def test_single_label_metrics_are_scikit_learns(rows: torch.Generator) -> None:
    head = ClassificationHead(features=VECTOR, target=SINGLE, top_k=2)
    logits, labels = torch.randn(200, 5, generator=rows), torch.randint(0, 4, (200,), generator=rows)  # one class never occurs
    labels[:9], valid = -1, torch.arange(200) % 5 != 0
    metrics = head.metrics()
    for start in range(0, 200, 23):
        part = slice(start, start + 23)
        metrics.update({"logits": logits[part]}, {"label": labels[part]}, valid[part])
    known = valid & (labels >= 0)
    truth, guess = labels[known].numpy(), logits[known].argmax(1).numpy()
    precision, recall, f1, _ = reference.precision_recall_fscore_support(truth, guess, average="macro", zero_division=0)
    top = reference.top_k_accuracy_score(truth, logits[known].numpy(), k=2, labels=range(5))
    expected = {"accuracy": reference.accuracy_score(truth, guess), "top2_accuracy": top, "precision": precision, "recall": recall, "f1": f1}
    assert metrics.compute() == pytest.approx(expected, abs=1e-6)
    assert metrics.tables() == {"confusion": reference.confusion_matrix(truth, guess, labels=range(5)).tolist(), "labels": list("abcde")}


def test_multi_label_metrics_are_scikit_learns(rows: torch.Generator) -> None:
    head = ClassificationHead(features=VECTOR, target=MULTI)
    logits, tags = torch.randn(90, 3, generator=rows), torch.randint(0, 2, (90, 3), generator=rows).float()
    valid = torch.arange(90) % 4 != 0
    metrics = head.metrics()
    for part in (slice(0, 50), slice(50, 90)):
        metrics.update({"logits": logits[part]}, {"tags": tags[part]}, valid[part])
    truth, guess = tags[valid].int().numpy(), (logits[valid] >= 0).int().numpy()
    precision, recall, f1, _ = reference.precision_recall_fscore_support(truth, guess, average="macro", zero_division=0)
    expected = {
        "accuracy": reference.accuracy_score(truth, guess),
        "label_accuracy": float((truth == guess).mean()),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }
    assert metrics.compute() == pytest.approx(expected, abs=1e-6)
    assert metrics.tables()["confusion"] == reference.multilabel_confusion_matrix(truth, guess).tolist()


NUMBERS = NumberTarget(name="y", columns=("a", "b"), mean=(1000.0, -2.0), std=(50.0, 0.0))


@pytest.mark.parametrize("kind", list(RegressionLoss))
def test_regression_loss_is_torchs_on_standardised_numbers(rows: torch.Generator, kind: RegressionLoss) -> None:
    head = RegressionHead(features=VECTOR, target=NUMBERS, loss=kind, huber_delta=0.7)
    given = torch.randn(30, 2, generator=rows)
    wanted = torch.randn(30, 2, generator=rows) * torch.tensor([50.0, 1.0]) + torch.tensor([1000.0, -2.0])
    wanted[4, 0], wanted[9], valid = torch.nan, torch.nan, torch.arange(30) % 6 != 0
    term = head.loss({"standardised": given}, {"y": wanted}, valid)["regression"]
    known = valid[:, None] & ~wanted.isnan()
    functions = {RegressionLoss.MSE: F.mse_loss, RegressionLoss.MAE: F.l1_loss, RegressionLoss.HUBER: lambda a, b: F.huber_loss(a, b, delta=0.7)}
    scaled = (wanted - torch.tensor([1000.0, -2.0])) / torch.tensor([50.0, 1.0])  # a constant column is not scaled
    torch.testing.assert_close(term.sum / term.count, functions[kind](given[known], scaled[known]))


def test_regression_metrics_are_scikit_learns(rows: torch.Generator) -> None:
    head = RegressionHead(features=VECTOR, target=NUMBERS)
    given, wanted = torch.randn(60, 2, generator=rows), torch.randn(60, 2, generator=rows) * 40 + 990
    valid = torch.arange(60) % 4 != 0
    metrics = head.metrics()
    for part in (slice(0, 35), slice(35, 60)):
        metrics.update({"standardised": given[part]}, {"y": wanted[part]}, valid[part])
    own = (given.double() * torch.tensor([50.0, 1.0]) + torch.tensor([1000.0, -2.0]))[valid].numpy()
    truth, found = wanted[valid].double().numpy(), metrics.compute()
    for place, name in enumerate("ab"):
        assert found[f"mae/{name}"] == pytest.approx(reference.mean_absolute_error(truth[:, place], own[:, place]))
        assert found[f"rmse/{name}"] == pytest.approx(reference.root_mean_squared_error(truth[:, place], own[:, place]))
        assert found[f"r2/{name}"] == pytest.approx(reference.r2_score(truth[:, place], own[:, place]))
        assert found[f"pearson/{name}"] == pytest.approx(stats.pearsonr(truth[:, place], own[:, place]).statistic)
        assert found[f"spearman/{name}"] == pytest.approx(stats.spearmanr(truth[:, place], own[:, place]).statistic)
    assert found["r2"] == pytest.approx(reference.r2_score(truth, own))
    assert head.decode({"standardised": given}, {})[0]["a"] == pytest.approx(float(given[0, 0]) * 50 + 1000, rel=1e-6)


def ranking(rows: torch.Generator, users: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    scores = torch.randn(users, 41, generator=rows)
    seen = torch.randint(0, 41, (users, 9), generator=rows)
    return scores, torch.randint(1, 41, (users,), generator=rows), seen


def test_ranking_metrics_follow_their_definitions(rows: torch.Generator) -> None:
    """By a loop over users, and NDCG by scikit-learn's, which takes seen items as having been removed."""
    scores, answers, seen = ranking(rows)
    metrics = RankingMetrics(ITEMS, (3, 10))
    valid = torch.arange(60) % 9 != 0
    targets = torch.zeros(60, 4, dtype=torch.int64)
    last = torch.arange(60) % 4
    targets[torch.arange(60), last] = answers
    for part in (slice(0, 7), slice(7, 60)):
        metrics.update({"scores": scores[part], "last": last[part]}, {"next": targets[part], "seen": seen[part]}, valid[part])
    hits, gains, reciprocals, sklearn_gains = {3: [], 10: []}, {3: [], 10: []}, [], []  # type: ignore[var-annotated]
    for user in torch.arange(60)[valid].tolist():
        answer, left_out = int(answers[user]), set(seen[user].tolist())
        candidates = [item for item in range(1, 41) if item == answer or item not in left_out]
        rank = sorted(candidates, key=lambda item: -float(scores[user, item])).index(answer) + 1
        reciprocals.append(1 / rank)
        for k in (3, 10):
            hits[k].append(rank <= k)
            gains[k].append(1 / math.log2(1 + rank) if rank <= k else 0.0)
        sklearn_gains.append(reference.ndcg_score([[float(item == answer) for item in candidates]], [[float(scores[user, item]) for item in candidates]], k=10))
    expected = {f"hit_rate@{k}": np.mean(hits[k]) for k in hits} | {f"ndcg@{k}": np.mean(gains[k]) for k in gains} | {"mrr": np.mean(reciprocals)}
    assert metrics.compute() == pytest.approx(expected, abs=1e-12)
    assert metrics.compute()["ndcg@10"] == pytest.approx(np.mean(sklearn_gains), abs=1e-12)


def test_equal_scores_take_the_middle_rank() -> None:
    """A model that has learned nothing must not rank first: 40 equal items put the answer at 1 + 39 / 2."""
    metrics = RankingMetrics(ITEMS, (10, 20, 21))
    targets = {"next": torch.tensor([[7]]), "seen": torch.zeros(1, 1, dtype=torch.int64)}
    metrics.update({"scores": torch.zeros(1, 41), "last": torch.tensor([0])}, targets, torch.tensor([True]))
    found = metrics.compute()
    assert found["mrr"] == pytest.approx(1 / 20.5)
    assert (found["hit_rate@10"], found["hit_rate@20"], found["hit_rate@21"]) == (0, 0, 1)


def histories(rows: torch.Generator) -> tuple[Features, dict[str, Tensor], Tensor]:
    mask = torch.arange(12) < torch.tensor([12, 3, 1, 7])[:, None]
    targets = torch.randint(1, 41, (4, 12), generator=rows) * mask
    targets[0, 2:5] = 0
    return Features(tokens=torch.randn(4, 12, 6, generator=rows), mask=mask), {"next": targets, "seen": targets}, torch.tensor([True, True, True, False])


def test_next_item_loss_is_torchs_over_the_catalogue(rows: torch.Generator) -> None:
    head = NextItemHead(features=CAUSAL, target=ITEMS)
    features, targets, valid = histories(rows)
    assert features.tokens is not None
    term = head.loss(head.train()(features), targets, valid)["next_item"]
    logits = features.tokens @ head.items.weight[1:].T
    wanted = torch.where(valid[:, None], targets["next"], 0) - 1
    torch.testing.assert_close(term.sum, F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="sum"))
    assert int(term.count) == int((wanted >= 0).sum())
    evaluated = head.eval()(features)
    torch.testing.assert_close(evaluated["scores"][1], features.tokens[1, 2] @ head.items.weight.T)


def test_sampled_loss_estimates_the_full_one(rows: torch.Generator) -> None:
    """Its mean over many draws is near the full softmax's, nearer with more samples; the draws belong to samples, not to the batch."""
    features, targets, valid = histories(rows)
    head = NextItemHead(features=CAUSAL, target=ITEMS, loss=ItemLoss.SAMPLED, num_sampled=2000)
    with torch.no_grad():
        head.items.weight.mul_(20)
    name_randomness(head)
    full = NextItemHead(features=CAUSAL, target=ITEMS)
    full.load_state_dict(head.state_dict())
    exact = full.loss(full(features), targets, valid)["next_item"].sum
    with sample_randomness(SampleRandom(0, 0, torch.arange(4))):
        near = head.loss(head(features), targets, valid)["next_item"].sum
    assert float(near.detach()) == pytest.approx(float(exact.detach()), rel=0.02)
    torch.testing.assert_close(head.eval().loss(head(features), targets, valid)["next_item"].sum, exact)


def test_answers_leave_out_what_was_seen(rows: torch.Generator) -> None:
    head = NextItemHead(features=CAUSAL, target=ITEMS, answers=5).eval()
    scores, _, seen = ranking(rows, users=8)
    for row, answer in enumerate(head.decode({"scores": scores}, {"seen": seen})):
        left = [item for item in range(1, 41) if item not in seen[row].tolist()]
        assert answer["items"] == sorted(left, key=lambda item: -float(scores[row, item]))[:5]
        assert answer["scores"] == pytest.approx([float(scores[row, item]) for item in answer["items"]])
    everything = torch.arange(1, 41)[None].expand(8, -1).clone()
    everything[:, :2] = 0
    assert sorted(head.decode({"scores": scores}, {"seen": everything})[0]["items"]) == [1, 2]
