"""A model is an encoder, a decoder and a head; the pipeline is a straight line."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from zoo.layers.dropout import name_randomness
from zoo.specs import FeatureSpec, TargetSpec
from zoo.structs import Batch, Features, LossTerm, Prediction, Targets, Values


class Encoder(Protocol):
    """An ``nn.Module`` that makes features of one input. Its constructor takes an input's spec.

    ``repeats`` names the ``nn.ModuleList``s of equal blocks, for activation checkpointing and sharding. ``no_decay`` names parameters of its
    own that weight decay leaves alone (``zoo.optim.groups``).
    """

    output_spec: FeatureSpec

    def __call__(self, values: Any, mask: Tensor | None = None) -> Features: ...


class Decoder(Protocol):
    """An ``nn.Module`` from features to features. Its constructor takes ``features: FeatureSpec``."""

    output_spec: FeatureSpec

    def __call__(self, features: Features) -> Features: ...


class Metrics(Protocol):
    """Running figures over a split. Each valid row counts once; ``merge`` adds the rows that other ranks saw."""

    def update(self, prediction: Prediction, targets: Targets, valid: Tensor) -> None: ...

    def merge(self) -> None:
        """Sum the state over the ranks of the default process group; a no-op without one."""

    def compute(self) -> dict[str, float]:
        """Names without the split's prefix: ``accuracy``, ``ndcg@10`` ..."""

    def tables(self) -> dict[str, Any]:
        """Whatever is not one number, by name, as plain lists (``confusion`` with its ``labels``)."""


class Head(Protocol):
    """An ``nn.Module`` for one task. Its constructor takes ``features: FeatureSpec`` and a target's spec."""

    target: TargetSpec
    monitor: ClassVar[tuple[str, str]]
    """The metric that says which checkpoint is best, and "max" or "min": ``("accuracy", "max")``."""

    protocol: str
    """One line: how the metrics are computed, for reports and cards."""

    def __call__(self, features: Features) -> Prediction: ...

    def count(self, targets: Targets, valid: Tensor) -> dict[str, Tensor]:
        """What each loss term is divided by, from targets alone, so that it is summed over ranks before the first forward pass."""

    def loss(self, prediction: Prediction, targets: Targets, valid: Tensor) -> dict[str, LossTerm]:
        """Sums over valid rows, by name; all of them are minimised, each divided by its own global count."""

    def metrics(self) -> Metrics: ...

    def decode(self, prediction: Prediction, targets: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """One answer that a person reads for each row, as plain JSON values."""


class Model(nn.Module):
    """``encoder -> decoder -> head`` over one named input of a batch."""

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module

    def __init__(self, *, encoder: nn.Module, decoder: nn.Module, head: nn.Module, input: str) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head, self.input = encoder, decoder, head, input
        name_randomness(self)

    def forward(self, inputs: Mapping[str, Values]) -> Prediction:
        values = inputs[self.input]
        features: Features = self.encoder(values.values, values.mask)
        features = self.decoder(features)
        prediction: Prediction = self.head(features)
        return prediction

    def losses(self, batch: Batch) -> dict[str, LossTerm]:
        return self.head.loss(self(batch.inputs), batch.targets, batch.valid)  # type: ignore[operator, no-any-return]

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def mixes_batch(model: nn.Module) -> list[str]:
    """Names of the layers whose output for one row depends on the other rows in training (batch norm)."""
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training) or isinstance(module, torch.nn.SyncBatchNorm)
    ]
