"""How far each parameter is from the head, in layers: what layer-wise decay of the learning rate counts.

A module that names its blocks in ``repeats`` is a tower: what stands before its first block is one layer, each block is one, and what
follows the last block (a norm) belongs to it. Towers that stand side by side (of several modalities) are counted from their tops. Heads are
0. For a ViT these are timm's layers (``timm.optim.param_groups_layer_decay``), and a model of timm's is asked for its own.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from zoo.errors import ConfigError


def layer_distances(model: nn.Module) -> dict[str, int]:
    """Name of each parameter -> layers between it and the model's end; 0 for heads.

    Raises:
        ConfigError: where no part of the model names its blocks, so that there are no layers to count.
    """
    distances: dict[str, int] = {}
    counted, below = False, 1
    for part in ("decoder", "encoder"):  # from the end to the beginning
        module = getattr(model, part)
        own = {f"{part}.{name}": distance for name, distance in _within(module).items()}
        counted = counted or bool(set(own.values()) - {0})
        distances |= {name: below + distance for name, distance in own.items()}
        below += 1 + max(own.values(), default=-1)
    if not counted:
        raise ConfigError(
            "optimizer.layer_decay",
            "neither the encoder nor the decoder names its blocks, so that there are no layers to count",
            "optimizer.layer_decay=null",
            "in a component of your own: repeats = (...), as in zoo/encoders/vit.py",
        )
    return {name: distances.get(name, 0) for name, _ in model.named_parameters()}


def _within(part: nn.Module) -> dict[str, int]:
    """The same inside an encoder or decoder; 0 for its last layer."""
    towers = dict(_towers(part, ""))
    found = {prefix + name: distance for prefix, own in towers.items() for name, distance in own.items()}
    outside = [name for name, _ in part.named_parameters() if name not in found]
    if outside and towers:  # what joins several towers stands above them
        found = {name: distance + 1 for name, distance in found.items()}
    return found | dict.fromkeys(outside, 0)


def _towers(module: nn.Module, prefix: str) -> Iterator[tuple[str, dict[str, int]]]:
    """The outermost modules that say where their layers are, by prefix."""
    if getattr(module, "repeats", ()):
        yield prefix, _tower(module)
    elif hasattr(module, "group_matcher"):
        yield prefix, _of_timm(module)
    else:
        for name, child in module.named_children():
            yield from _towers(child, f"{prefix}{name}.")


def _tower(module: Any) -> dict[str, int]:
    blocks = [f"{name}.{number}." for name in module.repeats for number in range(len(module.get_submodule(name)))]
    distances: dict[str, int] = {}
    reached = 0  # blocks begun so far, in the order in which the module's parts were made
    for name, _ in module.named_parameters():
        reached = next((number for number, block in enumerate(blocks, 1) if name.startswith(block)), reached)
        distances[name] = len(blocks) - reached
    return distances


def _of_timm(module: Any) -> dict[str, int]:
    from timm.models import group_parameters

    layers: dict[str, int] = group_parameters(module, module.group_matcher(coarse=False), reverse=True)
    return {name: max(layers.values()) - layer for name, layer in layers.items()}
