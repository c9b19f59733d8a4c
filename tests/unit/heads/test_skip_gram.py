"""Skip-gram with negative sampling against the paper's objective, pair by pair."""

import math

import pytest
import torch
from torch import Tensor

from zoo.heads.skip_gram import SkipGramHead, lay_windows
from zoo.layers.dropout import name_randomness
from zoo.random import SampleRandom, sample_randomness
from zoo.specs import ContextTarget, FeatureSpec, Layout
from zoo.structs import Features

COUNTS = (0, 0, 50, 30, 20, 10, 5, 5, 2, 1)
TARGET = ContextTarget(name="context", vocab_size=10, counts=COUNTS)
LOCAL = FeatureSpec(dim=4, layout=Layout.SEQUENCE, causal=True, local=True)
WORDS = torch.tensor([[2, 3, -1, 4, 2, 5, 9], [7, 2, 6, -1, -1, -1, -1], [-1, -1, 3, -1, -1, -1, -1]])
VALID = torch.ones(3, dtype=torch.bool)


def made(**options: object) -> tuple[SkipGramHead, Features]:
    generator = torch.Generator().manual_seed(0)
    head = SkipGramHead(features=LOCAL, target=TARGET, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        head.contexts.weight.copy_(torch.randn(10, 4, generator=generator))
    name_randomness(head)
    return head, Features(tokens=torch.randn(3, 7, 4, generator=generator).double())


def objective(head: SkipGramHead, hidden: Tensor, window: int, negatives: int) -> float:
    """Equation 4 of Mikolov et al. (2013) summed over pairs, whose window is drawn from 1 .. window, with the expectation over the noise in full."""
    noise = [count**0.75 / sum(other**0.75 for other in COUNTS) for count in COUNTS]
    sigmoid = lambda value: 1 / (1 + math.exp(-value))  # noqa: E731
    total = 0.0
    for row in range(3):
        known = [place for place in range(7) if WORDS[row, place] >= 0]
        for i, centre in enumerate(known):
            for j, other in enumerate(known):
                if i == j or abs(i - j) > window:
                    continue
                score = [float(hidden[row, centre] @ head.contexts.weight[word].detach()) for word in range(10)]
                answer = int(WORDS[row, other])
                term = math.log(sigmoid(score[answer])) + negatives * sum(noise[w] * math.log(sigmoid(-score[w])) for w in range(10) if w != answer)
                total -= term * (window + 1 - abs(i - j)) / window
    return total


def test_evaluation_is_the_papers_objective() -> None:
    head, features = made(window=3, negatives=2)
    head.eval()
    term = head.loss(head(features), {"context": WORDS}, VALID)["skip_gram"]
    assert features.tokens is not None
    assert float(term.sum.detach()) == pytest.approx(objective(head, features.tokens, 3, 2), rel=1e-6)
    assert int(term.count) == 10


def test_training_is_evaluation_on_average() -> None:
    """With every word kept; windows and noise are drawn anew by each step. The mean of 3,000 draws is within four standard errors."""
    head, features = made(window=3, negatives=2, sample=0.0, drawn=16)
    expected = float(head.eval().loss(head(features), {"context": WORDS}, VALID)["skip_gram"].sum.detach())
    head.train()
    found = []
    for step in range(3000):
        with sample_randomness(SampleRandom(0, step, torch.arange(3))), torch.no_grad():
            found.append(head.loss(head(features), {"context": WORDS}, VALID)["skip_gram"].sum)
    draws = torch.stack(found)
    assert abs(float(draws.mean()) - expected) < 4 * float(draws.std()) / 3000**0.5


def test_frequent_words_are_left_out_as_word2vec_does() -> None:
    """sqrt(t / f) + t / f (word2vec.c), and 1 for what is rarer."""
    head, _ = made(sample=0.05)
    total = sum(COUNTS)
    for word, count in enumerate(COUNTS[2:], 2):
        share = count / total
        assert float(head.keep[word]) == pytest.approx(min(1.0, math.sqrt(0.05 / share) + 0.05 / share), rel=1e-6)


def test_words_that_are_drawn_follow_the_power_of_their_counts() -> None:
    head, _ = made()
    weights = [count**0.75 for count in COUNTS]
    assert head.noise.tolist() == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-6)


def test_windows_close_over_words_that_are_left_out() -> None:
    windows = lay_windows(WORDS, WORDS >= 0, 1)
    assert windows.words[0].tolist() == [2, 3, 4, 2, 5, 9]
    assert windows.context[0, 1].tolist() == [2, 4]  # the unknown word between 3 and 4 is no distance
    assert windows.weight[2].sum() == 0


def test_a_texts_loss_does_not_depend_on_its_company() -> None:
    """R3: alone, and in a batch with longer ones."""
    head, features = made(window=3, drawn=8, sample=0.02)
    head.train()
    assert features.tokens is not None
    with sample_randomness(SampleRandom(0, 1, torch.arange(3))):
        whole = head.loss(head(features), {"context": WORDS}, VALID)["skip_gram"].sum
    parts = []
    for row, length in ((0, 7), (1, 3), (2, 3)):
        with sample_randomness(SampleRandom(0, 1, torch.tensor([row]))):
            parts.append(
                head.loss(head(Features(tokens=features.tokens[row : row + 1, :length])), {"context": WORDS[row : row + 1, :length]}, VALID[:1])[
                    "skip_gram"
                ].sum
            )
    assert float(whole.detach()) == pytest.approx(float(sum(parts).detach()), rel=1e-12)  # type: ignore[union-attr]
    assert float(whole.detach()) > 0


def test_auc_of_scores_that_tell_everything_and_nothing() -> None:
    head, features = made(window=1)
    head.eval()
    prediction = head(features)
    for level, expected in ((0.0, 0.5), (1.0, None)):
        logits = torch.zeros_like(prediction["logits"])
        logits[0, :, 9] = level
        metrics = head.metrics()
        metrics.update({"logits": logits}, {"context": WORDS}, VALID)
        auc = metrics.compute()["auc"]
        assert auc == expected if expected is not None else auc > 0.5


def test_an_answer_is_the_mean_of_known_words() -> None:
    head, features = made()
    prediction = head.eval()(features)
    assert features.tokens is not None
    answers = head.decode(prediction, {"context": WORDS})
    assert answers[1]["vector"] == pytest.approx(features.tokens[1, :3].mean(dim=0).tolist())


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (FeatureSpec(dim=4, layout=Layout.SEQUENCE, causal=True), {}, "model/encoder=bag model.encoder.ngrams=1"),
        (LOCAL, {"window": 0}, "window=0 leaves nothing"),
        (LOCAL, {"sample": 1.0}, "sample=1.0 is no share"),
    ],
)
def test_refusals(features: FeatureSpec, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SkipGramHead(features=features, target=TARGET, **options)  # type: ignore[arg-type]


def test_counts_have_to_be_those_of_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="counts 0 words of a vocabulary of 10"):
        SkipGramHead(features=LOCAL, target=ContextTarget(name="context", vocab_size=10))
