"""A model is an encoder, a decoder and a head; the pipeline is a straight line."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, ZooError
from zoo.layers.dropout import key_foreign, name_randomness
from zoo.specs import FeatureSpec, TargetSpec
from zoo.structs import Batch, Features, LossTerm, Prediction, Targets, Values


class Encoder(Protocol):
    """An ``nn.Module`` that makes features of one input. Its constructor takes an input's spec.

    One that is made of other encoders says ``by_name = True``: it is given ``{input: Values}``, however many there are, and answers for
    rows that lack some of them (``Values.present``), unless it says ``needs_all = True``. One that may leave submodules out of a forward pass,
    by what a batch holds, says ``skips_parts = True``: parameters then have gradients on some ranks only, which the trainer's sum copes with and
    sharding does not.

    ``repeats`` names the ``nn.ModuleList``s of equal blocks, for activation checkpointing, sharding and layer-wise decay of the learning rate.
    ``no_decay`` names parameters of its own that weight decay leaves alone (``zoo.optim.groups``). ``table`` names its table of embeddings, where a
    later part may use that as well: one that says ``tied`` is given it (``tie``).

    An encoder with ``packs = True`` takes ``packing: Packing | None = None`` after the mask: all items end to end in one row. It gives the same
    features for each item, by item (``Packing.unpack``).
    """

    output_spec: FeatureSpec

    def __call__(self, values: Any, mask: Tensor | None = None) -> Features: ...


class Decoder(Protocol):
    """An ``nn.Module`` from features to features. Its constructor takes ``features: FeatureSpec``.

    One that writes a text takes the spec of what was written so far as well (``written: WrittenInput``), and is called with its values.
    """

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
    """An ``nn.Module`` for one task. Its constructor takes ``features: FeatureSpec`` and a target's spec.

    A head whose loss compares rows with each other says ``whole_batch = True``. Its ``loss`` is then given the rows of the global batch, whatever
    ranks and micro-batches they came from (``zoo.training.whole_batch``), and depends on predictions and targets alone: a parameter that takes
    part in it, as a temperature does, goes out as a column of the prediction. Predictions and targets have one shape for every row. At evaluation
    it has metrics and no loss, which would depend on the size of the batches.
    """

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
    """``encoder -> decoder -> head``. The encoder is given one named input's values and mask, or several inputs by name.

    Args:
        encoder: from inputs to features.
        decoder: from features to features.
        head: of the task.
        input: the name of the encoder's input, or of all of them.
        written: the name of the input that the decoder takes; None for decoders of features alone.
    """

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module

    def __init__(self, *, encoder: nn.Module, decoder: nn.Module, head: nn.Module, input: str | tuple[str, ...], written: str | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head
        self.inputs = (input,) if isinstance(input, str) else input
        self.written = written
        tie_parts(encoder, decoder, head)
        self.by_name = len(self.inputs) > 1 or bool(getattr(encoder, "by_name", False))
        key_foreign(self)
        name_randomness(self)

    def forward(self, inputs: Mapping[str, Values]) -> Prediction:
        prediction: Prediction = self.head(self.decode(self.encode(inputs), inputs))
        return prediction

    def encode(self, inputs: Mapping[str, Values]) -> Features:
        """What the encoder makes of a batch's inputs."""
        if self.by_name:
            return self.encoder({name: inputs[name] for name in self.inputs})  # type: ignore[no-any-return]
        return encode_input(self.encoder, inputs[self.inputs[0]])

    def decode(self, features: Features, inputs: Mapping[str, Values]) -> Features:
        """What the decoder makes of the encoder's features, and of what was written."""
        if self.written is None:
            return self.decoder(features)  # type: ignore[no-any-return]
        return self.decoder(features, inputs[self.written].unpacked())  # type: ignore[no-any-return]

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of all inputs that it is trained with: the encoder's and the decoder's."""
        return self.inputs if self.written is None else (*self.inputs, self.written)

    @property
    def input(self) -> str:
        """The name of its only input.

        Raises:
            ZooError: where it has several.
        """
        if len(self.inputs) > 1:
            raise ZooError(f"the model takes several inputs, {', '.join(self.inputs)}, and one was asked for")
        return self.inputs[0]

    def losses(self, batch: Batch) -> dict[str, LossTerm]:
        return self.head.loss(self(batch.inputs), batch.targets, batch.valid)  # type: ignore[operator, no-any-return]

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def encode_input(encoder: nn.Module, values: Values) -> Features:
    """One input through an encoder of one input; packed ones only through those that say that they can."""
    if values.packing is None:
        return encoder(values.values, values.mask)  # type: ignore[no-any-return]
    assert getattr(encoder, "packs", False), f"{type(encoder).__name__} does not pack; zoo.checks refuses it"
    return encoder(values.values, values.mask, values.packing)  # type: ignore[no-any-return]


def tie_parts(encoder: nn.Module, decoder: nn.Module, head: nn.Module) -> None:
    """Give each part that says ``tied`` the table of embeddings of the nearest part before it. A part names its own by ``table``.

    Raises:
        ConfigError: where no part before it has one, or one of another width.
    """
    table: nn.Module | None = None
    for path, part in (("model.encoder", encoder), ("model.decoder", decoder), ("model.head", head)):
        if getattr(part, "tied", False):
            if table is None:
                raise ConfigError(
                    path, "it is to share the table of embeddings of a part before it, and none has one", "output=own", "model/encoder=transformer"
                )
            try:
                part.tie(table)  # type: ignore[operator]
            except ValueError as error:
                raise ConfigError(path, str(error)) from error
        elif isinstance(name := getattr(part, "table", None), str):
            table = part.get_submodule(name)


def mixes_batch(model: nn.Module) -> list[str]:
    """Names of the layers whose output for one row depends on the other rows in training (batch norm)."""
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training) or isinstance(module, torch.nn.SyncBatchNorm)
    ]
