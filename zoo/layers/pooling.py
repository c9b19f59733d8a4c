"""One vector out of many, real positions only.

Letters: B items, N positions, D width, C H W maps.
"""

from enum import StrEnum

import torch
from torch import Tensor, nn

from zoo.layers.precision import widen
from zoo.specs import FeatureSpec, Layout
from zoo.structs import Features


class Pooling(StrEnum):
    AUTO = "auto"
    MEAN = "mean"
    MAX = "max"
    CLS = "cls"
    LAST = "last"
    ATTENTION = "attention"


def masked_mean(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """B N D -> B D; zero where no position is real."""
    if mask is None:
        return tokens.mean(dim=1)
    real = mask[..., None].to(tokens.dtype)
    return (tokens * real).sum(dim=1) / real.sum(dim=1).clamp_min(1)


def masked_max(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """B N D -> B D; zero where no position is real."""
    if mask is None:
        return tokens.amax(dim=1)
    highest = tokens.masked_fill(~mask[..., None], torch.finfo(tokens.dtype).min).amax(dim=1)
    return highest.masked_fill(~mask.any(dim=1)[:, None], 0)


def last_real(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """B N D -> B D: the last real position, wherever the padding is; position 0 where none is real."""
    if mask is None:
        return tokens[:, -1]
    place = last_place(mask)
    return tokens.gather(1, place[:, None, None].expand(-1, 1, tokens.shape[-1])).squeeze(1)


def last_place(mask: Tensor) -> Tensor:
    """B N -> B int64: number of the last True; 0 where there is none."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (places * mask).amax(dim=1)


class AttentionPooling(nn.Module):
    """A weighted mean whose weights are a softmax of a learned score of each position.

    Args:
        dim: width D.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = widen(self.score(tokens))  # B N 1
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], torch.finfo(scores.dtype).min)
        return (tokens * scores.softmax(dim=1).to(tokens.dtype)).sum(dim=1)


class Pool(nn.Module):
    """Features -> B D, as a head chooses it.

    ``auto`` takes the vector that the encoder pooled; where there is none, the mean, or the last position of causal features (the only
    one that has seen everything).

    Args:
        features: what comes in.
        pooling: auto, mean, max, cls (position 0), last (real position) or attention (learned weights).
    """

    def __init__(self, *, features: FeatureSpec, pooling: Pooling = Pooling.AUTO) -> None:
        super().__init__()
        fitting = fitting_poolings(features)
        if pooling not in fitting:
            raise ValueError(f"pooling={pooling} needs a sequence, but the features are a {features.layout}; choose {' or '.join(fitting)}")
        if pooling is Pooling.CLS and features.causal:
            raise ValueError(
                "pooling=cls takes position 0, which has seen nothing else in causal features; choose last or mean, or attention=bidirectional in the encoder"
            )
        if pooling is Pooling.AUTO and not features.pooled:
            pooling = Pooling.LAST if features.causal else Pooling.MEAN
        self.pooling, self.layout = pooling, features.layout
        self.attention = AttentionPooling(dim=features.dim) if pooling is Pooling.ATTENTION else None

    def forward(self, features: Features) -> Tensor:
        if self.pooling is Pooling.AUTO:
            assert features.pooled is not None, "the spec says that the encoder pools"
            return features.pooled
        if self.layout is Layout.MAP:
            tokens, mask = features.maps[-1].flatten(2).transpose(1, 2), None  # B C H W -> B HW C
        else:
            assert features.tokens is not None, "the spec says that there are tokens"
            tokens, mask = features.tokens, features.mask
        match self.pooling:
            case Pooling.MEAN:
                return masked_mean(tokens, mask)
            case Pooling.MAX:
                return masked_max(tokens, mask)
            case Pooling.CLS:
                return tokens[:, 0]
            case Pooling.LAST:
                return last_real(tokens, mask)
            case _:
                assert self.attention is not None
                return self.attention(tokens, mask)  # type: ignore[no-any-return]


def fitting_poolings(features: FeatureSpec) -> list[Pooling]:
    """The poolings that features of this spec allow."""
    match features.layout:
        case Layout.VECTOR:
            return [Pooling.AUTO]
        case Layout.MAP:
            return [Pooling.AUTO, Pooling.MEAN, Pooling.MAX, Pooling.ATTENTION]
        case Layout.SEQUENCE:
            return list(Pooling)
