"""Frozen prefixes: no change, no state, and exactly the run that trains the rest alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import make_model, make_trainer
from tests.unit.training.test_resume import everything, stop_at
from zoo.errors import ConfigError
from zoo.layers.lora import add_lora
from zoo.optim.freeze import Freezer
from zoo.settings import LoraSettings, TrainerSettings
from zoo.structs import Features
from zoo.training.checkpoint import newest_checkpoint


def states(trainer: Any) -> set[str]:
    return {name.rpartition("/")[0] for name in trainer.optimizer_state.collect()[0]}


def test_frozen_for_good() -> None:
    """Against the same parameters with requires_grad taken from them by hand."""
    trainer = make_trainer(freeze=["encoder.mix", "head.row.bias"])
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    model = make_model(0.2)
    model.encoder.mix.requires_grad_(False)
    model.head.row.bias.requires_grad_(False)
    by_hand = make_trainer(model=model)
    for one in (trainer, by_hand):
        one.fit()
    after = trainer.model.state_dict()
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    assert frozen == {"head.row.bias", *(name for name in before if name.startswith("encoder.mix."))}
    assert states(trainer) == set(before) - frozen
    wanted = everything(by_hand)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in everything(trainer).items())


def test_thawed_and_stopped_after_every_step(tmp_path: Path) -> None:
    """R4: parameters that thaw after step 6 have no state before; a run that is stopped anywhere ends in the same bits."""
    options: dict[str, Any] = {"freeze": ["encoder"], "freeze_until": 6, "checkpoint_every": 4}
    start = make_model().state_dict()
    whole = make_trainer(tmp_path / "whole", **options)
    whole.fit()
    wanted = everything(whole)
    for step in range(1, 12):
        folder = tmp_path / f"stopped_{step}"
        first, second = make_trainer(folder, **options), make_trainer(folder, **options)
        stop_at(first, step)
        first.fit()
        moved = {name for name, tensor in first.model.state_dict().items() if not torch.equal(tensor, start[name])}
        assert (states(first) == {name for name in start if name.startswith("head.")}) is (step <= 6)
        assert any(name.startswith("encoder.") for name in moved) is (step > 6)
        checkpoint = newest_checkpoint(folder)[0]
        assert checkpoint is not None
        second.load(checkpoint)
        second.fit()
        found = everything(second)
        assert set(found) == set(wanted)
        assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == [], f"stopped after step {step}"
    assert {float(wanted[f"optimizer/{name}/step"]) for name in ("head.row.weight", "encoder.norm.weight")} == {12.0, 6.0}


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    model.add_module("head", nn.Linear(4, 2))
    freezer = Freezer(model.train(), TrainerSettings(freeze=["body"], freeze_until=2))
    freezer.apply(1)
    model(torch.randn(8, 3))
    assert int(model.body[1].num_batches_tracked) == 0
    freezer.apply(2)
    model(torch.randn(8, 3))
    assert int(model.body[1].num_batches_tracked) == 1


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        (["encodr"], r"trainer.freeze\[0\]: no parameter's name begins with 'encodr'[\s\S]*did you mean 'encoder'"),
        (["head", "encoder.mix.weight"], r"trainer.freeze\[1\][\s\S]*'encoder.mix.weight_ih_l0'"),
        (["head", "encoder"], "covers every trainable parameter"),
    ],
)
def test_wrong_prefixes_are_refused(prefixes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Freezer(make_model().train(), TrainerSettings(freeze=prefixes))


class Adaptable(nn.Module):
    """The tiny encoder with a linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = make_model().encoder, nn.Linear(8, 8)
        self.output_spec = self.inner.output_spec

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> Features:
        features = self.inner(values, mask)
        return Features(tokens=self.out(features.tokens), mask=mask, pooled=self.out(features.pooled))


ADAPTERS = {"encoder.out.lora_a", "encoder.out.lora_b"}
HEAD = {"head.row.weight", "head.row.bias", "head.position.weight", "head.position.bias"}


def adapted() -> Any:
    model = make_model()
    model.encoder = Adaptable()
    add_lora(model, LoraSettings(rank=2, targets=["encoder.out"]))
    return model


@pytest.mark.parametrize(
    ("prefixes", "trained"),
    [
        (["encoder"], HEAD | ADAPTERS),
        (["encoder.out", "head.row.bias"], (HEAD - {"head.row.bias"}) | ADAPTERS),
        (["encoder", "encoder.out.lora_a"], HEAD | {"encoder.out.lora_b"}),  # by its whole name
        (["head"], ADAPTERS),
    ],
)
def test_adapters_under_a_frozen_prefix_are_trained(prefixes: list[str], trained: set[str]) -> None:
    """As in peft: what is frozen are the weights under them. In a real run adapters change, and nothing else of the prefix does."""
    model = adapted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_trainer(model=model, freeze=prefixes, max_steps=4)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert sum(parameter.numel() for group in trainer.step.optimizer.param_groups for parameter in group["params"]) == sum(
        before[name].numel() for name in trained
    )
    trainer.fit()
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == trained


def test_what_adapters_froze_never_thaws() -> None:
    """The head thaws after step 2; the weights under the adapters do not, before an evaluation, after it or at the end."""
    model = adapted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_trainer(model=model, freeze=["encoder", "head"], freeze_until=2, eval_every=3, max_steps=7).fit()
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == HEAD | ADAPTERS


def test_a_thaw_that_would_thaw_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.freeze_until: 2: nothing under \['encoder'\] could thaw(?s:.)*model\.lora\.rank=null"):
        Freezer(adapted().train(), TrainerSettings(freeze=["encoder"], freeze_until=2))
