"""Which parameters are decayed."""

import pytest
import timm
import torch
from torch import nn

from tests.tiny import make_model
from zoo.optim.groups import ParameterGroups


def test_matrices_are_decayed_vectors_and_embeddings_are_not() -> None:
    groups = ParameterGroups(make_model())
    assert set(groups.decayed) == {"encoder.mix.weight_ih_l0", "encoder.mix.weight_hh_l0", "head.row.weight", "head.position.weight"}
    assert "encoder.table.weight" in groups.spared
    assert "encoder.norm.weight" in groups.spared
    assert "head.row.bias" in groups.spared


def test_a_module_names_its_own_positions() -> None:
    class Positions(nn.Module):
        no_decay = ("positions",)

        def __init__(self) -> None:
            super().__init__()
            self.positions, self.matrix = nn.Parameter(torch.zeros(1, 5, 4)), nn.Parameter(torch.zeros(4, 4))

    groups = ParameterGroups(nn.Sequential(Positions()))
    assert (list(groups.decayed), list(groups.spared)) == (["0.matrix"], ["0.positions"])


def test_tied_weights_are_spared_if_either_place_asks() -> None:
    model = nn.Sequential(nn.Linear(4, 9, bias=False), nn.Embedding(9, 4))
    model[0].weight = model[1].weight
    groups = ParameterGroups(model)
    assert list(groups.spared) == ["0.weight"]
    assert not groups.decayed


def test_the_same_parameters_as_timm_decays() -> None:
    """Against timm's own grouping of its ViT."""
    from timm.optim import param_groups_weight_decay

    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    theirs = param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())
    ours = ParameterGroups(model).split(0.1)
    assert {id(p) for p in ours[0]["params"]} == {id(p) for group in theirs if group["weight_decay"] for p in group["params"]}


def test_frozen_parameters_are_left_out() -> None:
    model = make_model()
    model.encoder.requires_grad_(False)
    assert all(name.startswith("head.") for name in [*ParameterGroups(model).decayed, *ParameterGroups(model).spared])
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        ParameterGroups(model)


def test_without_decay_there_is_one_group() -> None:
    groups = ParameterGroups(make_model())
    assert len(groups.split(0.0)) == 1
    assert len(groups.split(0.1)) == 2
