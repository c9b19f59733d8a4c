"""Keyed dropout: when it is keyed, when it is torch's, and what it refuses."""

import zlib

import pytest
import torch
from torch import nn

from zoo.layers.attention import MultiHeadAttention
from zoo.layers.dropout import Dropout, DropPath, attention_keep_mask, check_probability, name_randomness
from zoo.random import SampleRandom, mix, sample_randomness


def named(layer: nn.Module) -> nn.Module:
    name_randomness(nn.ModuleDict({"layer": layer}))
    return layer


def test_is_the_identity_in_evaluation_and_at_zero() -> None:
    x = torch.randn(3, 4)
    with sample_randomness(SampleRandom(0, 0, torch.arange(3))):
        assert Dropout(0.5).eval()(x) is x
        assert Dropout(0.0).train()(x) is x
        assert DropPath(0.5).eval()(x) is x


def test_without_a_scope_it_is_torchs() -> None:
    x = torch.randn(30, 40)
    torch.manual_seed(0)
    found = Dropout(0.3)(x)
    torch.manual_seed(0)
    assert torch.equal(found, nn.functional.dropout(x, 0.3))
    assert set(DropPath(0.5)(torch.ones(50, 2)).sum(dim=1).tolist()) == {0.0, 4.0}


def test_a_layer_without_a_name_is_refused_rather_than_sharing_masks() -> None:
    with sample_randomness(SampleRandom(0, 0, torch.arange(3))), pytest.raises(RuntimeError, match="name_randomness"):
        Dropout(0.5)(torch.ones(3, 4))


def test_rows_that_are_not_the_batchs_are_refused() -> None:
    with sample_randomness(SampleRandom(0, 0, torch.arange(3))), pytest.raises(RuntimeError, match="6 rows, but the open randomness scope has 3"):
        named(Dropout(0.5))(torch.ones(6, 4))


def test_names_give_salts_that_do_not_depend_on_what_was_built_before() -> None:
    def build() -> nn.Module:
        model = nn.ModuleDict({"a": Dropout(), "b": nn.Sequential(DropPath(0.1), MultiHeadAttention(dim=4, heads=2, dropout=0.1))})
        name_randomness(model)
        return model

    salts = [[module.salt for module in build().modules() if hasattr(module, "salt")] for _ in range(2)]
    assert salts[0] == salts[1]
    assert len(set(salts[0])) == 3


def test_salts_are_the_same_in_every_process() -> None:
    """From CRC-32, not from Python's ``hash``, which is salted anew in each."""
    salt = named(Dropout()).salt
    assert isinstance(salt, int)
    assert salt % 2**64 == mix(mix(zlib.crc32(b"dropout")) ^ zlib.crc32(b"layer"))


def test_elements_are_numbered_along_the_axis_that_padding_makes_longer() -> None:
    layer = named(Dropout(0.5, axis=3))
    with sample_randomness(SampleRandom(0, 0, torch.arange(2))):
        short, long = layer(torch.ones(2, 3, 4, 5)), layer(torch.ones(2, 3, 4, 9))
    assert torch.equal(short, long[..., :5])
    assert not torch.equal(long[..., :4], long[..., 4:8])


def test_attention_weights_are_numbered_by_head_query_and_key() -> None:
    keys = SampleRandom(0, 0, torch.arange(3)).keys
    short, long = attention_keep_mask(keys, 2, 5, 5, 0.5, torch.float32), attention_keep_mask(keys, 2, 11, 11, 0.5, torch.float32)
    assert torch.equal(short, long[:, :, :5, :5])
    assert float(attention_keep_mask(keys, 8, 64, 64, 0.25, torch.float32).mean()) == pytest.approx(1, abs=0.02)


def test_the_gradient_passes_where_elements_do() -> None:
    layer, x = named(Dropout(0.5)), torch.randn(4, 50, requires_grad=True)
    with sample_randomness(SampleRandom(0, 0, torch.arange(4))):
        kept = layer(x)
    kept.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, kept)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=f"dropout={p} is no probability"):
        check_probability("dropout", p)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_layers_of_libraries_are_keyed_too(library: str) -> None:
    """timm's DropPath, torchvision's StochasticDepth and torch's Dropout: a row's numbers are the same alone and in its batch (R3)."""
    import timm
    from torchvision import models

    from zoo.layers.dropout import key_foreign

    if library == "timm":
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, drop_path_rate=0.4, pos_drop_rate=0.3, num_classes=0)
    else:
        model = models.get_model("convnext_tiny", stochastic_depth_prob=0.5)
    key_foreign(model)
    name_randomness(model)
    images, ids = torch.randn(6, 3, 32, 32), torch.arange(6)
    with torch.no_grad(), sample_randomness(SampleRandom(0, 3, ids)):
        whole = model.train()(images)
    with torch.no_grad(), sample_randomness(SampleRandom(0, 4, ids)):
        assert not torch.allclose(model(images), whole, rtol=1e-3)  # another step draws others
    for rows in (slice(0, 4), slice(4, 6)):
        with torch.no_grad(), sample_randomness(SampleRandom(0, 3, ids[rows])):
            torch.testing.assert_close(model(images[rows]), whole[rows], rtol=1e-4, atol=1e-5)
