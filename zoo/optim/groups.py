"""Which parameters are decayed.

Weight decay pulls matrices towards zero, where the layer after them (a norm, a softmax) makes up for their scale. Three kinds of
parameters are left alone:
- vectors and scalars (biases, gains of norms, layer scales): there are few, and pulling a gain to zero switches its feature off;
- embedding tables: a row has a gradient only when its entry occurs, and decay would shrink it at every other step too, the rarer
  the entry the more;
- learned positions and class entries, which their modules name in ``no_decay``: they are embeddings in all but type.
This is the grouping of BERT, ViT and timm; GPT-2's, which decays embeddings, differs in the second point.
"""

from typing import Any

from torch import nn


class ParameterGroups:
    """The trainable parameters of a model, in two parts: ``decayed`` and ``spared``.

    A module may name parameters of its own that are not to be decayed: ``no_decay = ("positions",)``; timm's ``no_weight_decay()`` is
    honoured as well. A parameter that is used in two places is spared if either place asks for it.
    """

    def __init__(self, model: nn.Module) -> None:
        spared = {id(parameter) for module in model.modules() for parameter in _spared_here(module)}
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not trainable:
            raise ValueError("the model has no trainable parameter; every one of them is frozen")
        self.decayed = {name: parameter for name, parameter in trainable.items() if id(parameter) not in spared}
        self.spared = {name: parameter for name, parameter in trainable.items() if id(parameter) in spared}

    def split(self, weight_decay: float) -> list[dict[str, Any]]:
        """What a torch optimizer takes; one group where nothing is decayed. Groups are never empty."""
        if not weight_decay:
            return [{"params": [*self.decayed.values(), *self.spared.values()], "weight_decay": 0.0}]
        groups = [
            {"params": list(self.decayed.values()), "weight_decay": weight_decay},
            {"params": list(self.spared.values()), "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


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
