"""An optimizer's state as named tensors and plain values, for checkpoints without pickle.

Tensors are ``<parameter>/<entry>``, e.g. ``encoder.blocks.0.norm.weight/exp_avg``, or ``@<group>/<entry>``; numbers, booleans, strings and
None go to JSON. Options of the optimizer (betas, eps ...) come from the run's config and not from the checkpoint, except those that the
optimizer itself changes as it goes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import CheckpointError


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Names of a model's parameters by their ``id``."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


Plain = int | float | bool | str | None


class OptimizerState:
    """Takes an optimizer's state apart and puts it together again.

    Args:
        optimizer: as it was built, before its first step.
        names: of its parameters, by ``id``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> None:
        self.optimizer, self.names = optimizer, names
        self.initial = [self._options(entry) for entry in optimizer.param_groups]

    def collect(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and the rest as JSON values.

        Raises:
            CheckpointError: for state of a kind that has no place in either.
        """
        tensors: dict[str, Tensor] = {}
        values: dict[str, dict[str, Plain]] = {}
        for parameter, state in self.optimizer.state.items():
            name = self.names[id(parameter)]
            for entry, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{name}/{entry}"] = value
                elif isinstance(value, int | float | bool | str | None):
                    values.setdefault(name, {})[entry] = value
                else:
                    raise CheckpointError(
                        f"optimizer {type(self.optimizer).__name__}: its state {entry!r} is a {type(value).__name__}, which checkpoints cannot hold"
                    )
        for place, group in enumerate(self.optimizer.param_groups):
            tensors |= {f"@{place}/{entry}": value for entry, value in group.items() if isinstance(value, Tensor)}
        groups = [
            {"parameters": [self.names[id(parameter)] for parameter in entry["params"]], "options": self._options(entry), "initial": initial}
            for entry, initial in zip(self.optimizer.param_groups, self.initial, strict=True)
        ]
        return tensors, {"name": type(self.optimizer).__name__, "groups": groups, "values": values}

    def restore(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], where: str) -> None:
        """Into an optimizer that has just been built.

        Raises:
            CheckpointError: where it is of another kind or over other parameters.
        """
        if rest["name"] != type(self.optimizer).__name__:
            raise CheckpointError(f"{where}: the checkpoint's optimizer is {rest['name']}, the run's is {type(self.optimizer).__name__}")
        parameters = {self.names[id(parameter)]: parameter for entry in self.optimizer.param_groups for parameter in entry["params"]}
        known = {name for entry in rest["groups"] for name in entry["parameters"]}
        if known != set(parameters):
            gone, new = sorted(known - set(parameters)), sorted(set(parameters) - known)
            raise CheckpointError(f"{where}: the optimizer's parameters differ; only in the checkpoint: {gone}; only in the run: {new}")
        self.optimizer.state.clear()
        for group, initial in zip(self.optimizer.param_groups, self.initial, strict=True):  # a run that rolls back may have changed its options
            now = self._options(group)
            group.update({key: value for key, value in initial.items() if key != "lr" and now.get(key) != value})
        for name, tensor in tensors.items():
            parameter, entry = name.rsplit("/", 1)
            if parameter.startswith("@"):  # a counter that the optimizer keeps once for a group
                self.optimizer.param_groups[int(parameter[1:])][entry] = tensor.clone()
                continue
            # Moments live where the parameter does; step counters stay on the CPU unless the optimizer is one that wants them beside it.
            beside = tensor.ndim > 0 or self.optimizer.defaults.get("capturable") or self.optimizer.defaults.get("fused")
            self.optimizer.state[parameters[parameter]][entry] = _beside(tensor, parameters[parameter]) if beside else tensor.clone()
        for parameter, values in rest["values"].items():
            self.optimizer.state[parameters[parameter]].update(values)
        if [entry["parameters"] for entry in rest["groups"]] == [
            [self.names[id(parameter)] for parameter in entry["params"]] for entry in self.optimizer.param_groups
        ]:
            for group, entry in zip(self.optimizer.param_groups, rest["groups"], strict=True):
                group.update({key: value for key, value in entry["options"].items() if key != "lr" and value != entry["initial"].get(key)})

    def _options(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in group.items() if key != "params" and _is_plain(value)}


def _beside(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A copy on the parameter's device and in its memory format, element for element: fused kernels walk over both in the order of memory."""
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor) if tensor.shape == parameter.shape else tensor.to(parameter.device)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, int | float | bool | str | None)
