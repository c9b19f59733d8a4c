"""Optimizers: built by name with their options, their whole state in safetensors and JSON."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from zoo.errors import CheckpointError
from zoo.optim.groups import ParameterGroups
from zoo.registry import OPTIMIZERS
from zoo.training.optimizer_state import OptimizerState, parameter_names

TIMM = ["lamb", "lion", "adopt", "nadamw", "adafactor", "laprop", "madgrad", "muon", "sgdw", "radam", "lars", "mars", "adan", "adabelief"]
CASES: list[dict[str, Any]] = [{"name": name} for name in ("sgd", "adam", "adamw", "rmsprop", "adagrad")] + [
    {"name": "timm", "optimizer": name} for name in TIMM
]


def build(node: dict[str, Any], seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    options = OPTIMIZERS.check_node({**node, "lr": 0.01, "weight_decay": 0.1}, "optimizer")
    return model, OPTIMIZERS.build(options, "optimizer", groups=ParameterGroups(model))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    torch.manual_seed(number)
    model(torch.randn(5, 4)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("node", CASES, ids=lambda node: node.get("optimizer", node["name"]))
def test_state_survives_json_and_tensors(node: dict[str, Any]) -> None:
    """R4: three steps, a checkpoint, three more: bit-equal to six."""
    model, optimizer = build(node)
    state = OptimizerState(optimizer, parameter_names(model))
    for number in range(3):
        step(model, optimizer, number)
    tensors, rest = state.collect()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    rest = json.loads(json.dumps(rest))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number in range(3, 6):
        step(model, optimizer, number)

    other, fresh = build(node, seed=1)
    other.load_state_dict(weights)
    OptimizerState(fresh, parameter_names(other)).restore(saved, rest, "here")
    for number in range(3, 6):
        step(other, fresh, number)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.slow
def test_every_optimizer_of_timm_survives() -> None:
    import timm.optim

    from zoo.optim.optimizers import WITHOUT

    for name in set(timm.optim.list_optimizers(exclude_filters=WITHOUT)) - {"adahessian"}:
        test_state_survives_json_and_tensors({"name": "timm", "optimizer": name})


def test_torch_has_the_same_numbers() -> None:
    """Our adamw without exemptions is torch's AdamW: a model of matrices only."""
    ours = nn.Linear(4, 3, bias=False)
    theirs = nn.Linear(4, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    node = OPTIMIZERS.check_node({"name": "adamw", "lr": 0.01, "betas": [0.8, 0.95], "weight_decay": 0.3, "kernel": "loop"}, "optimizer")
    optimizers = [
        OPTIMIZERS.build(node, "optimizer", groups=ParameterGroups(ours)),
        torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.8, 0.95), weight_decay=0.3, foreach=False),
    ]
    for number in range(4):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            step(model, optimizer, number)
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.5}])
def test_fused_sgd_takes_parameters_whose_first_gradient_comes_later(options: dict[str, Any]) -> None:
    """As those that are thawed: the same as torch's loop. Its fused kernel refuses them."""
    models = []
    for kernel in ("fused", "loop"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        optimizer = OPTIMIZERS.build(
            OPTIMIZERS.check_node({"name": "sgd", "kernel": kernel, **options}, "optimizer"), "optimizer", groups=ParameterGroups(model)
        )
        for number in range(5):
            model.zero_grad()
            model[0].requires_grad_(number > 1)
            step(model, optimizer, number)
        models.append(model)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_new_options_count_after_a_restore_and_the_optimizers_own_changes_stay() -> None:
    model, optimizer = build({"name": "adamw"})
    step(model, optimizer, 0)
    tensors, rest = OptimizerState(optimizer, parameter_names(model)).collect()
    rest["groups"][0]["options"]["progress"], rest["groups"][0]["initial"]["progress"] = 5, 0  # what an optimizer counts in its group
    torch.manual_seed(0)
    fresh = OPTIMIZERS.build(
        OPTIMIZERS.check_node({"name": "adamw", "betas": [0.5, 0.9], "weight_decay": 0.1}, "optimizer"), "optimizer", groups=ParameterGroups(model)
    )
    OptimizerState(fresh, parameter_names(model)).restore(tensors, rest, "here")
    assert list(fresh.param_groups[0]["betas"]) == [0.5, 0.9]
    assert fresh.param_groups[0]["progress"] == 5


def test_another_optimizer_or_other_parameters_are_refused() -> None:
    model, optimizer = build({"name": "adamw"})
    tensors, rest = OptimizerState(optimizer, parameter_names(model)).collect()
    other, sgd = build({"name": "sgd"})
    with pytest.raises(CheckpointError, match=r"optimizer is AdamW, the run's is SGD"):
        OptimizerState(sgd, parameter_names(other)).restore(tensors, rest, "here")
    rest["groups"][0]["parameters"] = ["renamed"]
    with pytest.raises(CheckpointError, match=r"only in the checkpoint: \['renamed'\]"):
        OptimizerState(optimizer, parameter_names(model)).restore(tensors, rest, "here")


def test_unknown_timm_optimizers_and_options_say_what_there_is() -> None:
    from zoo.errors import ConfigError

    groups = ParameterGroups(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"(?s)optimizer.*'lyon' is none of timm's.*'lion'"):
        OPTIMIZERS.build(OPTIMIZERS.check_node({"name": "timm", "optimizer": "lyon"}, "optimizer"), "optimizer", groups=groups)
    with pytest.raises(ConfigError, match="does not take them"):
        OPTIMIZERS.build(
            OPTIMIZERS.check_node({"name": "timm", "optimizer": "lion", "options": {"bettas": [0.9, 0.9]}}, "optimizer"), "optimizer", groups=groups
        )
    with pytest.raises(ConfigError, match="second derivatives"):
        OPTIMIZERS.build(OPTIMIZERS.check_node({"name": "timm", "optimizer": "adahessian"}, "optimizer"), "optimizer", groups=groups)
