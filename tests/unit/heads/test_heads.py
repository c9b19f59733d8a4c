"""What single heads promise beyond the contract."""

from typing import Any

import pytest
import torch

from zoo.heads.classification import ClassificationHead, ClassWeights
from zoo.heads.contrastive import ContrastiveHead
from zoo.heads.embedding import EmbeddingHead
from zoo.heads.next_item import NextItemHead
from zoo.heads.next_token import NextTokenHead
from zoo.heads.ranking_metrics import RankingMetrics
from zoo.heads.regression import RegressionHead
from zoo.specs import ClassTarget, FeatureSpec, ItemTarget, Labelling, Layout, NumberTarget, PairTarget, TokenTarget

VECTOR = FeatureSpec(dim=4, layout=Layout.VECTOR, pooled=True)
PAIR = FeatureSpec(dim=4, layout=Layout.SEQUENCE, parts=("image", "text"))
LABELS = ClassTarget(name="label", labels=("cat", "dog", "owl"), counts=(6, 3, 1))


class Elsewhere(torch.Tensor):
    """A tensor of a device without float64, as Apple's: only ``cpu()`` brings it here."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is torch.Tensor.cpu:
            return super().__torch_function__(function, types, arguments, options).as_subclass(torch.Tensor)
        result = super().__torch_function__(function, types, arguments, options)
        assert not (isinstance(result, Elsewhere) and result.dtype == torch.float64), f"{function.__name__} makes float64 on the device"
        return result


def test_figures_need_no_double_precision_on_the_device() -> None:
    there = lambda values: torch.tensor(values).as_subclass(Elsewhere)  # noqa: E731
    valid = there([True, True])
    numbers = NumberTarget(name="size", columns=("x",), mean=(1.0,), std=(2.0,))
    regression = RegressionHead(features=VECTOR, target=numbers)
    metrics = regression.metrics()
    metrics.update({"standardised": there([[0.0], [1.0]])}, {"size": there([[1.0], [2.0]])}, valid)
    assert metrics.compute()["mae"] == 0.5
    assert regression.decode({"standardised": there([[0.5]])}, {}) == [{"x": 2.0}]
    ranking = RankingMetrics(ItemTarget(name="next", num_items=2), (10,))
    ranking.update({"scores": there([[0.0, 1.0, 2.0]] * 2), "last": there([0, 0])}, {"next": there([[2], [1]]), "seen": there([[0], [0]])}, valid)
    assert ranking.compute()["mrr"] == 0.75


def test_single_label_answers_are_sorted_by_probability() -> None:
    head = ClassificationHead(features=VECTOR, target=LABELS)
    answer = head.decode({"logits": torch.tensor([[0.0, 2.0, 1.0]])}, {})[0]
    shares = torch.tensor([0.0, 2.0, 1.0]).softmax(0)
    assert list(answer["probabilities"]) == ["dog", "owl", "cat"]
    assert (answer["label"], answer["probability"]) == ("dog", pytest.approx(float(shares[1])))


def test_multi_label_answers_hold_every_likely_label() -> None:
    target = ClassTarget(name="tags", labels=("a", "b", "c"), labelling=Labelling.MULTI)
    answer = ClassificationHead(features=VECTOR, target=target).decode({"logits": torch.tensor([[3.0, -1.0, 0.5]])}, {})[0]
    assert answer["labels"] == ["a", "c"]


def test_top_k_is_capped_by_the_classes() -> None:
    assert ClassificationHead(features=VECTOR, target=LABELS).top_k == 0
    assert "top2_accuracy" in ClassificationHead(features=VECTOR, target=LABELS, top_k=2).metrics().metrics


def test_balanced_weights_are_no_part_of_a_checkpoint() -> None:
    head = ClassificationHead(features=VECTOR, target=LABELS, class_weights=ClassWeights.BALANCED)
    assert head.weights is not None
    torch.testing.assert_close(head.weights, torch.tensor([10 / 18, 10 / 9, 10 / 3]))
    assert set(head.state_dict()) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ClassificationHead(features=VECTOR, target=ClassTarget(name="y", labels=("a", "b")), class_weights=ClassWeights.BALANCED),
            "the data gives 0; use none",
        ),
        (lambda: ClassificationHead(features=VECTOR, target=LABELS, label_smoothing=1.0), "label_smoothing=1.0 is no share"),
        (lambda: ClassificationHead(features=VECTOR, target=LABELS, top_k=-1), "top_k=-1 is negative"),
        (lambda: ClassificationHead(features=VECTOR, target=ClassTarget(name="y", labels=("a",))), "nothing to choose between"),
        (lambda: RegressionHead(features=VECTOR, target=NumberTarget(name="y", columns=("a",), mean=(0.0,), std=(1.0,)), huber_delta=0.0), "huber_delta=0.0"),
        (
            lambda: NextItemHead(features=VECTOR, target=ItemTarget(name="next", num_items=5)),
            "needs a causal sequence, .* gets a vector; set model.encoder.attention=causal",
        ),
        (
            lambda: NextItemHead(features=FeatureSpec(dim=4, layout=Layout.SEQUENCE), target=ItemTarget(name="next", num_items=5)),
            "gets a sequence in which positions see later ones",
        ),
        (
            lambda: NextTokenHead(features=FeatureSpec(dim=4, layout=Layout.SEQUENCE), target=TokenTarget(name="next", vocab_size=5)),
            "gets a sequence in which positions see later ones; .* model.encoder.direction=forward",
        ),
        (lambda: EmbeddingHead(features=VECTOR, target=PairTarget(name="same"), k=()), r"k=\[\] has to list positive lengths"),
        (lambda: ContrastiveHead(features=PAIR, target=PairTarget(name="same"), k=(5, 0)), r"k=\[5, 0\] has to list positive lengths"),
        (
            lambda: NextItemHead(features=FeatureSpec(dim=4, layout=Layout.SEQUENCE, causal=True), target=ItemTarget(name="next", num_items=5), k=(5,)),
            r"k=\[5\]",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
