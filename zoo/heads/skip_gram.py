"""Skip-gram with negative sampling: word vectors (Mikolov et al., 2013, https://arxiv.org/abs/1310.4546).

Letters: B texts, N positions, M words of a text that are kept, D width, V vocabulary, W positions of a window (both sides), S words drawn for a
text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads.context_metrics import ContextMetrics
from zoo.layers.fits import Fit
from zoo.layers.pooling import masked_mean
from zoo.layers.precision import widen
from zoo.random import current
from zoo.registry import HEADS
from zoo.specs import ContextTarget, FeatureSpec, Layout
from zoo.structs import Features, LossTerm, Prediction, Targets


@dataclass(frozen=True)
class Windows:
    """The words of texts that take part, moved up to the beginning, and those around each of them.

    Args:
        order: B M int64, the positions that the words stood at.
        words: B M int64; 0 behind the last.
        context: B M W int64, the words around each; any where there is none.
        places: M W int64, where these are among the M.
        weight: B M W, how much each pair counts; 0 where there is none.
    """

    order: Tensor
    words: Tensor
    context: Tensor
    places: Tensor
    weight: Tensor


@HEADS.register("skip_gram")
class SkipGramHead(nn.Module):
    """Every word tells the words around it from words that are drawn. Its features are the word vectors; the head has a second table, of contexts.

    As in word2vec, frequent words are left out at random before windows are laid, and each word draws how far its window reaches, up to ``window``.
    The objective is the paper's equation 4: log s(v'_O . v_I) + negatives x E[log s(-v'_i . v_I)], summed over pairs and divided by the words of the
    batch. The words that are drawn for a text serve all of its pairs, so that many of them cost little; one that is a pair's own answer is left
    out of that pair. Outside training nothing is drawn: every word is kept, a pair counts as often as its window would reach it, and the expectation
    over the noise is taken in full.

    Args:
        features: filled from what comes before the head; word vectors, each of its own word alone.
        target: filled from the data's spec.
        window: words on either side at most.
        negatives: drawn words that a pair is worth in the objective; the paper's k.
        drawn: words that are drawn for each text, from which the expectation is estimated for all of its pairs.
        noise_power: that counts are raised to for the distribution that words are drawn from.
        sample: share of all words above which a word is left out at times (word2vec's program: kept with probability sqrt(t/f) + t/f); 0 keeps all.
    """

    repeats = ()
    fits: ClassVar = {"contexts.weight": Fit.VOCABULARY}
    monitor: ClassVar[tuple[str, str]] = ("auc", "max")

    def __init__(
        self,
        *,
        features: FeatureSpec,
        target: ContextTarget,
        window: int = 5,
        negatives: int = 5,
        drawn: int = 128,
        noise_power: float = 0.75,
        sample: float = 0.001,
    ) -> None:
        super().__init__()
        if features.layout is not Layout.SEQUENCE or not features.local:
            raise ValueError(
                "the head needs one vector for each word that depends on that word alone, or it would see what it has to tell; "
                "set model.encoder to a table of vectors: model/encoder=bag model.encoder.ngrams=1"
            )
        for name, value in (("window", window), ("negatives", negatives), ("drawn", drawn)):
            if value < 1:
                raise ValueError(f"{name}={value} leaves nothing to learn from; choose 1 or more")
        if not 0 <= sample < 1:
            raise ValueError(f"sample={sample} is no share of all words below 1; choose e.g. 0.001, or 0 to keep all")
        self.target, self.window, self.negatives, self.drawn, self.noise_power = target, window, negatives, drawn, noise_power
        self.contexts = nn.Embedding(target.vocab_size, features.dim)
        nn.init.zeros_(self.contexts.weight)
        share, noise = shares(target), noise_of(target, noise_power)
        keep = torch.where(share > sample, (sample / share).sqrt() + sample / share, 1.0) if sample else torch.ones_like(share)
        here = self.contexts.weight.device  # which is meta where a composition is checked
        self.register_buffer("noise", noise.float().to(here), persistent=False)  # V
        self.register_buffer("cumulated", noise.cumsum(0).to(here), persistent=False)  # V, float64: the last ones are many and small
        self.register_buffer("keep", keep.clamp(max=1).float().to(here), persistent=False)  # V
        self.protocol = (
            f"words up to {window} on either side, nearer ones counting more, of each known word in its text; auc is the probability that such a word scores "
            "above one drawn by its count to the power "
            f"{noise_power:g}, ties counting half; loss in nats a word, with {negatives} drawn words a pair, in full expectation"
        )

    def forward(self, features: Features) -> Prediction:
        """``hidden`` B N D; outside training ``logits`` B N V of every word as its context, and ``real`` B N."""
        assert features.tokens is not None, "the spec says that there are tokens"
        hidden = widen(features.tokens)
        if self.training:
            return {"hidden": hidden}
        real = features.mask if features.mask is not None else hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        with torch.autocast(hidden.device.type if hidden.device.type != "meta" else "cpu", enabled=False):  # products of a few bits blur near scores
            return {"hidden": hidden, "logits": hidden @ widen(self.contexts.weight).T, "real": real}

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """Words, kept or not."""
        return {"skip_gram": self.asked(targets, valid).sum().float()}

    def asked(self, targets: Targets, valid: Tensor) -> Tensor:
        """B N bool."""
        return valid[:, None] & (targets[self.target.name] != self.target.ignore_index)

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Over pairs, in nats."""
        words, asked = targets[self.target.name], self.asked(targets, valid)
        total = self.sampled(prediction["hidden"], words, asked) if self.training else self.expected(prediction["logits"], words, asked)
        return {"skip_gram": LossTerm(total, asked.sum().float())}

    def sampled(self, hidden: Tensor, words: Tensor, asked: Tensor) -> Tensor:
        """The objective with drawn words, of the words that are kept."""
        kept = asked & (draw("skip_gram.keep", words, words.shape[1]) < self.keep[words.clamp_min(0)])  # type: ignore[index]
        windows = lay_windows(words, kept, self.window)
        reach = 1 + (draw("skip_gram.window", words, windows.words.shape[1]) * self.window).long()  # B M
        weight = windows.weight * (distances(self.window, words.device) <= reach[..., None])  # B M W, 0 or 1: the draw is the weight
        weight = (weight > 0).to(hidden.dtype)
        with torch.autocast(hidden.device.type if hidden.device.type != "meta" else "cpu", enabled=False):
            centre = hidden.gather(1, windows.order[..., None].expand(-1, -1, hidden.shape[-1]))  # B M D
            around = widen(self.contexts(windows.words))  # B M D
            scores = (centre @ around.transpose(1, 2)).gather(2, windows.places.expand_as(windows.context))  # B M W
            total = (weight * F.softplus(-scores)).sum()
            place = draw("skip_gram.noise", words, self.drawn).double()  # B S
            number = torch.searchsorted(self.cumulated, place).clamp(max=self.target.vocab_size - 1)  # type: ignore[arg-type]
            against = centre @ widen(self.contexts(number)).transpose(1, 2)  # B M S
            own = torch.zeros_like(against)  # pairs whose answer was drawn
            for column in range(weight.shape[2]):  # one position of the window at a time: all at once are B M W S comparisons
                own = own + (windows.context[:, :, column, None] == number[:, None]) * weight[:, :, column, None]
            worth = (weight.sum(dim=-1, keepdim=True) - own) * (self.negatives / self.drawn)
            return total + (worth * F.softplus(against)).sum()

    def expected(self, logits: Tensor, words: Tensor, asked: Tensor) -> Tensor:
        """What ``sampled`` is on average where every word is kept."""
        windows = lay_windows(words, asked, self.window)
        logits = logits.gather(1, windows.order[..., None].expand(-1, -1, logits.shape[-1]))  # B M V
        scores = logits.gather(2, windows.context)  # B M W
        against = F.softplus(logits) @ self.noise.to(logits.dtype)  # type: ignore[operator]  # B M
        own = self.noise[windows.context] * F.softplus(scores)  # type: ignore[index]
        return (windows.weight.to(logits.dtype) * (F.softplus(-scores) + self.negatives * (against[..., None] - own))).sum()

    def metrics(self) -> ContextMetrics:
        return ContextMetrics(self.target, self.windows, noise_of(self.target, self.noise_power))

    def windows(self, targets: Targets, valid: Tensor) -> Windows:
        """Of every known word of valid rows."""
        return lay_windows(targets[self.target.name], self.asked(targets, valid), self.window)

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """``vector``: D numbers, the mean of the vectors of a text's known words; a word's own where the text is that word."""
        known = prediction["real"]
        if self.target.name in targets:
            known = known & (targets[self.target.name] != self.target.ignore_index)
        return [{"vector": vector} for vector in masked_mean(prediction["hidden"].detach(), known).tolist()]


def shares(target: ContextTarget) -> Tensor:
    """V float64, on the CPU: of all words of the training split; all alike for a sketch, which has no counts.

    Raises:
        ValueError: where the counts are not those of the vocabulary.
    """
    if "counts" in target.provisional:
        return torch.full((target.vocab_size,), 1 / target.vocab_size, dtype=torch.float64, device="cpu")
    if len(target.counts) != target.vocab_size or not any(target.counts):
        raise ValueError(
            f"the data counts {len(target.counts)} words of a vocabulary of {target.vocab_size}; choose data.target_kind=context, which counts them"
        )
    counts = torch.tensor(target.counts, dtype=torch.float64, device="cpu")
    return counts / counts.sum()


def noise_of(target: ContextTarget, power: float) -> Tensor:
    """V float64: the distribution of drawn words."""
    share = shares(target)
    noise = torch.where(share > 0, share**power, 0.0)
    return noise / noise.sum()


def draw(purpose: str, words: Tensor, count: int) -> Tensor:
    """B count in [0, 1): by sample and place, so that neither padding nor the batch has a say."""
    random = current()
    return torch.rand(len(words), count, device=words.device) if random is None else random.uniform(purpose, count)


def distances(window: int, device: torch.device) -> Tensor:
    """W int64: 1 .. window, before and after."""
    away = torch.arange(1, window + 1, device=device)
    return torch.cat((away.flip(0), away))


def lay_windows(words: Tensor, kept: Tensor, window: int) -> Windows:
    """Windows over the words that are kept, in their order; each pair weighs as a reach that is uniform in 1 .. window comes to it.

    Args:
        words: B N int64.
        kept: B N bool.
        window: words on either side at most.
    """
    order = (~kept).byte().argsort(dim=1, stable=True)
    number = kept.sum(dim=1, keepdim=True)  # B 1
    if type(number) is Tensor and words.device.type != "meta":  # how many are kept is data, which meta tensors and those of a plan do not have
        order = order[:, : max(1, int(number.max()))]
    length = order.shape[1]
    places = torch.arange(length, device=words.device)
    real = places < number  # B M
    words = words.gather(1, order).clamp_min(0) * real
    away = distances(window, words.device)
    at = places[:, None] + torch.cat((-away[:window], away[window:]))  # M W
    inside, at = (at >= 0) & (at < length), at.clamp(0, length - 1)
    weight = real[:, :, None] & real[:, at] & inside
    return Windows(order, words, words[:, at], at, weight * ((window + 1 - away) / window))
