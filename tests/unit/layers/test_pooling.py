"""Pooling: real positions only, wherever the padding is."""

import pytest
import torch

from zoo.layers.pooling import Pool, Pooling, last_place, last_real, masked_max, masked_mean
from zoo.specs import FeatureSpec, Layout, MapSpec
from zoo.structs import Features

TOKENS = torch.tensor([[[1.0, -5.0], [3.0, -1.0], [100.0, 100.0]], [[7.0, 7.0], [9.0, 9.0], [2.0, -4.0]]])
MASK = torch.tensor([[True, True, False], [False, False, True]])
NOTHING = torch.zeros(2, 3, dtype=torch.bool)


def test_mean_max_and_last_take_real_positions() -> None:
    assert masked_mean(TOKENS, MASK).tolist() == [[2, -3], [2, -4]]
    assert masked_max(TOKENS, MASK).tolist() == [[3, -1], [2, -4]]
    assert last_real(TOKENS, MASK).tolist() == [[3, -1], [2, -4]]
    assert last_place(MASK).tolist() == [1, 2]


def test_without_a_mask_every_position_is_real() -> None:
    everything = torch.ones(2, 3, dtype=torch.bool)
    for pool in (masked_mean, masked_max, last_real):
        torch.testing.assert_close(pool(TOKENS), pool(TOKENS, everything))


def test_nothing_real_is_zero_and_finite() -> None:
    assert not bool(masked_mean(TOKENS, NOTHING).any())
    assert not bool(masked_max(TOKENS, NOTHING).any())
    assert bool(last_real(TOKENS, NOTHING).isfinite().all())


def sequence(**changes: bool) -> FeatureSpec:
    return FeatureSpec(dim=2, layout=Layout.SEQUENCE, **changes)


def test_auto_takes_what_fits_the_features() -> None:
    features = Features(tokens=TOKENS, mask=MASK, pooled=TOKENS[:, 0])
    assert torch.equal(Pool(features=sequence(pooled=True))(features), TOKENS[:, 0])
    assert torch.equal(Pool(features=sequence())(features), masked_mean(TOKENS, MASK))
    assert torch.equal(Pool(features=sequence(causal=True))(features), last_real(TOKENS, MASK))


def test_a_choice_beats_the_encoders_own_pooling() -> None:
    features = Features(tokens=TOKENS, mask=MASK, pooled=TOKENS[:, 0])
    assert torch.equal(Pool(features=sequence(pooled=True), pooling=Pooling.MAX)(features), masked_max(TOKENS, MASK))


def test_attention_pooling_is_a_weighted_mean_of_real_positions() -> None:
    pool = Pool(features=sequence(), pooling=Pooling.ATTENTION)
    assert pool.attention is not None
    with torch.no_grad():
        pool.attention.score.weight.copy_(torch.tensor([[1.0, 0.0]]))
    shares = torch.tensor([1.0, 3.0]).softmax(0)
    torch.testing.assert_close(pool(Features(tokens=TOKENS, mask=MASK))[0], shares[0] * TOKENS[0, 0] + shares[1] * TOKENS[0, 1])


def test_maps_are_pooled_over_places_of_the_coarsest() -> None:
    maps = (torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4))
    spec = FeatureSpec(dim=6, layout=Layout.MAP, maps=(MapSpec(channels=4, stride=1), MapSpec(channels=6, stride=2)))
    torch.testing.assert_close(Pool(features=spec)(Features(maps=maps)), maps[1].mean(dim=(2, 3)))
    torch.testing.assert_close(Pool(features=spec, pooling=Pooling.MAX)(Features(maps=maps)), maps[1].amax(dim=(2, 3)))


def test_what_does_not_fit_is_refused_with_what_does() -> None:
    with pytest.raises(ValueError, match="pooling=cls needs a sequence, but the features are a vector; choose auto"):
        Pool(features=FeatureSpec(dim=2, layout=Layout.VECTOR, pooled=True), pooling=Pooling.CLS)
    with pytest.raises(ValueError, match="position 0, which has seen nothing else"):
        Pool(features=sequence(causal=True), pooling=Pooling.CLS)
