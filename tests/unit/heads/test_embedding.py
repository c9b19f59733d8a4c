"""The supervised contrastive loss by the paper's formula, and retrieval among a split's own rows against scikit-learn."""

import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from tests.processes import run_ranks
from zoo.heads import retrieval_metrics
from zoo.heads.embedding import EmbeddingHead
from zoo.heads.retrieval_metrics import NeighbourMetrics, RetrievalMetrics
from zoo.layers.pooling import Pooling
from zoo.specs import FeatureSpec, Layout, PairTarget
from zoo.structs import Features

PAIR = PairTarget(name="pair")
SPEC = FeatureSpec(dim=4, layout=Layout.SEQUENCE)


def test_the_papers_formula() -> None:
    """Equation 2 of https://arxiv.org/abs/2004.11362, item by item; items without a partner add nothing, rows that do not count are nobody's other."""
    vectors = F.normalize(torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)
    pairs, valid = [1, 2, 1, 3, 2, 1, 1], [True, True, True, True, True, True, False]
    head = EmbeddingHead(features=SPEC, target=PAIR, temperature=0.3)
    found = head.loss({"vectors": vectors}, {"pair": torch.tensor(pairs)}, torch.tensor(valid))["embedding"]
    total = 0.0
    for one in range(6):
        others = [place for place in range(6) if place != one]
        partners = [place for place in others if pairs[place] == pairs[one]]
        below = sum(math.exp(float(vectors[one] @ vectors[place]) / 0.3) for place in others)
        total += sum(-math.log(math.exp(float(vectors[one] @ vectors[place]) / 0.3) / below) for place in partners) / max(1, len(partners))
    assert float(found.sum) == pytest.approx(total, rel=1e-12)
    assert float(found.count) == 6


def test_shorter_vectors_by_the_papers_formula() -> None:
    """Kusupati et al. (2022): the mean of the loss over the first numbers of each vector, each scaled to length 1."""
    vectors = F.normalize(torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), dim=-1)
    targets, valid = {"pair": torch.tensor([1, 1, 2, 2, 3, 3])}, torch.ones(6, dtype=torch.bool)
    spec = FeatureSpec(dim=8, layout=Layout.SEQUENCE)
    nested = EmbeddingHead(features=spec, target=PAIR, sizes=(4, 2))
    plain = EmbeddingHead(features=spec, target=PAIR)
    cut = [F.normalize(vectors[:, :size], dim=-1) for size in (2, 4, 8)]
    expected = sum(float(plain.loss({"vectors": short}, targets, valid)["embedding"].sum) for short in cut) / 3
    assert float(nested.loss({"vectors": vectors}, targets, valid)["embedding"].sum) == pytest.approx(expected, rel=1e-12)
    metrics, alone = nested.metrics(), NeighbourMetrics(PAIR, (1, 5, 10))
    metrics.update({"vectors": vectors}, targets, valid)
    alone.update({"vectors": cut[0]}, targets, valid)
    assert metrics.compute()["recall@1_of_2"] == alone.compute()["recall@1"]


def test_neighbours_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_metrics, "CHUNK", 7)
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randint(0, 15, (60,), generator=generator)
    vectors = F.normalize(torch.randn(60, 5, generator=generator), dim=-1)
    metrics = NeighbourMetrics(PAIR, (1, 5))
    for part in (slice(0, 25), slice(25, 60)):
        metrics.update({"vectors": vectors[part]}, {"pair": pairs[part]}, torch.ones(60, dtype=torch.bool)[part])
    metrics.merge()
    found = metrics.compute()
    nearest = NearestNeighbors(n_neighbors=59, metric="cosine").fit(vectors.numpy()).kneighbors(return_distance=False)
    asked = [row for row in range(60) if int((pairs == pairs[row]).sum()) > 1]
    assert len(asked) < 60
    first = [next(place for place, other in enumerate(nearest[row], 1) if pairs[other] == pairs[row]) for row in asked]
    assert found["recall@1"] == pytest.approx(sum(rank <= 1 for rank in first) / len(asked))
    assert found["recall@5"] == pytest.approx(sum(rank <= 5 for rank in first) / len(asked))
    # Wrong rows only are counted before a hit, which the first hit has nothing else before it anyway.
    assert found["mrr"] == pytest.approx(sum(1 / rank for rank in first) / len(asked))


def test_vectors_have_length_one_and_the_asked_width() -> None:
    features = Features(tokens=torch.randn(3, 5, 4), mask=torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] + [False] * 4]))
    for dim in (0, 7):
        head = EmbeddingHead(features=SPEC, target=PAIR, dim=dim, pooling=Pooling.MEAN)
        vectors = head(features)["vectors"]
        assert vectors.shape == (3, dim or 4)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
        assert [len(answer["vector"]) for answer in head.decode({"vectors": vectors}, {})] == [dim or 4] * 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"temperature": 0.0}, "temperature=0"), ({"dim": -1}, "dim=-1"), ({"k": ()}, "k="), ({"k": (0,)}, "k="), ({"sizes": (2, 4)}, "sizes=")],
)
def test_what_is_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        EmbeddingHead(features=SPEC, target=PAIR, **options)  # type: ignore[arg-type]


def shared(rank: int, world: int, kind: str) -> dict[str, float]:
    """The last rank has no row of the split."""
    vectors = F.normalize(torch.randn(9, 2, 5, generator=torch.Generator().manual_seed(2)), dim=-1)
    pairs = torch.arange(9) // 2
    metrics = NeighbourMetrics(PAIR, (1, 3)) if kind == "neighbour" else RetrievalMetrics(PAIR, ("image", "text"), (1, 3))
    busy = max(1, world - 1)
    if rank < busy:
        given = vectors[rank::busy, 0] if kind == "neighbour" else vectors[rank::busy]
        metrics.update({"vectors": given}, {"pair": pairs[rank::busy]}, torch.ones(len(given), dtype=torch.bool))
    metrics.merge()
    return metrics.compute()


@pytest.mark.parametrize("kind", ["neighbour", "retrieval"])
def test_a_process_without_a_batch(kind: str) -> None:
    """R7: uneven shards; figures are those of one process."""
    wanted = shared(0, 1, kind)
    for found in run_ranks(shared, 3, kind):
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize("metrics", [NeighbourMetrics(PAIR, (1,)), RetrievalMetrics(PAIR, ("image", "text"), (1,))])
def test_a_split_without_rows_has_no_figures(metrics: NeighbourMetrics | RetrievalMetrics) -> None:
    metrics.merge()
    figures = metrics.compute()
    assert figures
    assert all(math.isnan(value) for value in figures.values())
