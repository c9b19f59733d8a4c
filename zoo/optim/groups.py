"""Which parameters are decayed, and which learning rate each of them has.

Weight decay pulls matrices towards zero, where the layer after them (a norm, a softmax) makes up for their scale. Three kinds of
parameters are left alone:
- vectors and scalars (biases, gains of norms, layer scales): there are few, and pulling a gain to zero switches its feature off;
- embedding tables: a row has a gradient only when its entry occurs, and decay would shrink it at every other step too, the rarer
  the entry the more;
- learned positions and class entries, which their modules name in ``no_decay``: they are embeddings in all but type.
This is the grouping of BERT, ViT and timm; GPT-2's, which decays embeddings, differs in the second point.
"""

from typing import Any

import torch
from torch import nn

from zoo.optim.layers import layer_distances
from zoo.prefixes import check_prefix, longest
from zoo.settings import GroupSettings

BASE = "base"
"""Label of the parameters that nothing singles out."""


class ParameterGroups:
    """The trainable parameters of a model, in two parts, ``decayed`` and ``spared``, and their shares of the learning rate.

    A module may name parameters of its own that are not to be decayed: ``no_decay = ("positions",)``; timm's ``no_weight_decay()`` is
    honoured as well. A parameter that is used in two places is spared if either place asks for it.

    Args:
        model: whose parameters they are; frozen ones (``requires_grad`` False) are left out.
        settings: layer-wise decay, and overrides by prefix.

    Raises:
        ConfigError: for a prefix that covers nothing, with near ones; where no layers can be counted.
        ValueError: where nothing is to be trained.
    """

    def __init__(self, model: nn.Module, settings: GroupSettings = GroupSettings()) -> None:  # noqa: B008 - frozen, and empty
        spared = {id(parameter) for module in model.modules() for parameter in _spared_here(module)}
        names = [name for name, _ in model.named_parameters()]
        for prefix in settings.overrides:
            check_prefix(f"optimizer.overrides.{prefix}", prefix, names)
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not trainable:
            raise ValueError("the model has no trainable parameter; every one of them is frozen")
        self.decayed = {name: parameter for name, parameter in trainable.items() if id(parameter) not in spared}
        self.spared = {name: parameter for name, parameter in trainable.items() if id(parameter) in spared}
        self.settings = settings
        self.distances = layer_distances(model) if settings.layer_decay is not None else dict.fromkeys(names, 0)
        self.layers = max(self.distances.values())

    def split(self, weight_decay: float) -> list[dict[str, Any]]:
        """What a torch optimizer takes; one group where nothing is decayed or scaled. Groups are never empty.

        Where rates differ, each group has a ``label``, and its share of the rate as ``lr_scale``, which ``scale_rates`` applies.
        """
        groups: dict[tuple[str, float], dict[str, Any]] = {}
        plain = not self.settings.overrides and self.settings.layer_decay is None
        for decayed, parameters in ((True, self.decayed), (False, self.spared)):
            for name, parameter in parameters.items():
                decay = self._override(name, "weight_decay", weight_decay) if decayed else 0.0
                label = BASE if plain else self._label(name)
                if (label, decay) not in groups:
                    told = {} if plain else {"label": label, "lr_scale": self._scale(name)}
                    groups[label, decay] = {"params": [], "weight_decay": decay, **told}
                groups[label, decay]["params"].append(parameter)
        return list(groups.values())

    def _override(self, name: str, key: str, otherwise: float) -> float:
        prefix = longest(name, [prefix for prefix, options in self.settings.overrides.items() if key in options])
        return otherwise if prefix is None else self.settings.overrides[prefix][key]

    def _scale(self, name: str) -> float:
        own = self._override(name, "lr_scale", 1.0)
        return own if self.settings.layer_decay is None else own * self.settings.layer_decay ** self.distances[name]

    def _label(self, name: str) -> str:
        """Of one learning rate: the layer, counted from the input as timm does, and the prefix that changes its rate."""
        prefix = longest(name, [prefix for prefix, options in self.settings.overrides.items() if "lr_scale" in options])
        layer = f"layer_{self.layers - self.distances[name]:02d}" if self.settings.layer_decay is not None else None
        return ".".join(part for part in (prefix, layer) if part) or BASE


def scale_rates(optimizer: torch.optim.Optimizer) -> None:
    """Once, after it is built: each group's rate becomes its share."""
    for entry in optimizer.param_groups:
        entry["lr"] = entry["lr"] * entry.get("lr_scale", 1.0)


def _spared_here(module: nn.Module) -> list[nn.Parameter]:
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return list(own.values())
    named = {*getattr(module, "no_decay", ())}
    if foreign := getattr(module, "no_weight_decay", None):
        everything = dict(module.named_parameters())
        own |= {name: everything[name] for name in foreign() if name in everything}
        named |= set(foreign())
    return [parameter for name, parameter in own.items() if parameter.ndim <= 1 or name in named]
