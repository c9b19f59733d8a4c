"""Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685), by the formula that peft computes.

An adapted layer keeps its weight and bias under their own names and gives  W x + b + alpha / rank * B A dropout(x).  A is initialised as a linear
layer's weight and B with zeros, so that training begins at the model that was given. For a convolution A is one of the same kernel with
``rank`` outputs and B a 1 x 1 one. Merged, the weight is  W + alpha / rank * B A,  and the model is a plain one again.

Letters: I inputs, O outputs, R rank.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, did_you_mean
from zoo.layers.dropout import Dropout, name_randomness
from zoo.settings import LoraSettings

A, B, SCALE = "lora_a", "lora_b", "lora_scale"


class Adapter(nn.Module):
    """What linear and convolutional layers with an adapter have in common. Made from a layer by ``adapt``."""

    weight: Tensor

    def add_adapter(self, settings: LoraSettings) -> None:
        assert settings.rank is not None
        outputs, *rest = self.weight.shape
        self.lora_a = nn.Parameter(nn.init.kaiming_uniform_(self.weight.new_empty(settings.rank, *rest), a=math.sqrt(5)))  # R I ...
        self.lora_b = nn.Parameter(self.weight.new_zeros(outputs, settings.rank, *[1] * (len(rest) - 1)))  # O R 1 ...
        self.register_buffer(SCALE, self.weight.new_full((), settings.alpha / settings.rank))  # kept with the weights: all that merging them takes
        self.factor = settings.alpha / settings.rank
        # Elements are numbered along the positions, where there are any: padding must not change a mask.
        self.lora_dropout = Dropout(settings.dropout)

    def drop_adapter(self) -> None:
        del self.lora_a, self.lora_b, self.lora_scale, self.lora_dropout, self.factor


class LoraLinear(Adapter, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(self.lora_dropout(x), self.lora_a)  # ... R
        return F.linear(x, self.weight, self.bias) + self.factor * F.linear(low, self.lora_b)


class LoraConv1d(Adapter, nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        low = self._conv_forward(self.lora_dropout(x), self.lora_a, None)
        return self._conv_forward(x, self.weight, self.bias) + self.factor * F.conv1d(low, self.lora_b)  # type: ignore[no-any-return]


class LoraConv2d(Adapter, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        low = self._conv_forward(self.lora_dropout(x), self.lora_a, None)
        return self._conv_forward(x, self.weight, self.bias) + self.factor * F.conv2d(low, self.lora_b)  # type: ignore[no-any-return]


ADAPTED: dict[type[nn.Module], type[Adapter]] = {nn.Linear: LoraLinear, nn.Conv1d: LoraConv1d, nn.Conv2d: LoraConv2d}
PLAIN = {adapted: plain for plain, adapted in ADAPTED.items()}


def add_lora(model: nn.Module, settings: LoraSettings) -> list[str]:
    """Adapt a model's layers in place, and freeze the rest of the parts (encoder, decoder) that they are in.

    A layer changes its class and keeps its parameters, so that their names, and whoever holds them, stay.

    Args:
        model: with its weights, on any device.
        settings: with a rank; without one nothing happens.

    Returns:
        Names of the adapted layers.

    Raises:
        ConfigError: for a pattern that no layer of a kind that can be adapted matches.
    """
    if settings.rank is None:
        return []
    layers = {name: module for name, module in model.named_modules() if type(module) in ADAPTED and getattr(module, "groups", 1) == 1}
    for place, pattern in enumerate(settings.targets):
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ConfigError(
                f"model.lora.targets[{place}]",
                f"{pattern!r} matches none of the model's {len(layers)} linear and convolutional layers (others, recurrent ones say, have no adapters)",
                did_you_mean(pattern, layers) if layers else "an encoder that has such layers",
                "a pattern: * stands for any part of a name, e.g. encoder.*",
            )
    found = [name for name in layers if any(fnmatchcase(name, pattern) for pattern in settings.targets)]
    if not found:
        raise ConfigError("model.lora.targets", "names no layer", "model.lora.targets=[encoder.*]", "model.lora.rank=null for no adapters")
    for part in {name.partition(".")[0] for name in found} - {"head"}:
        model.get_submodule(part).requires_grad_(False)
    for name in found:
        layer: Any = layers[name].requires_grad_(False)  # of a head, which is new, the other layers train as they are
        layer.__class__ = ADAPTED[type(layer)]
        layer.add_adapter(settings)
        layer.train(layer.training)
    name_randomness(model)
    return found


def is_adapter(name: str) -> bool:
    """Whether a parameter, by its name, is an adapter's."""
    return name.rpartition(".")[2] in (A, B)


def adapter_parameters(model: nn.Module) -> int:
    """How many numbers its adapters hold, on top of the plain model's."""
    return sum(module.lora_a.numel() + module.lora_b.numel() for module in model.modules() if isinstance(module, Adapter))


def remove_lora(model: nn.Module) -> None:
    """Make a model plain again, with the weights that it had before its adapters; ``merged`` gives those to load."""
    for module in list(model.modules()):
        if isinstance(module, Adapter) and type(module) in PLAIN:
            module.drop_adapter()
            module.__class__ = PLAIN[type(module)]  # type: ignore[assignment]


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's state with its adapters added to the weights, under the plain model's names; without adapters it is returned as it is."""
    found = dict(state)
    for name in [name for name in state if name.endswith(f".{A}")]:
        layer = name.removesuffix(A)
        low, high, scale = (found.pop(layer + key) for key in (A, B, SCALE))
        low, high, weight, scale = (tensor.double() for tensor in (low, high, found[f"{layer}weight"], scale))
        total = weight + scale * (high.flatten(1) @ low.flatten(1)).view_as(weight)
        found[f"{layer}weight"] = total.to(state[f"{layer}weight"].dtype)
    return found
