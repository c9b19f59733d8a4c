"""``init=``: start from other weights. Strict: every tensor is loaded, or was asked for by prefix, and a report says which."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from zoo.errors import CheckpointError, ConfigError, near
from zoo.hub.resolve import resolve
from zoo.hub.weights import read_header
from zoo.training.checkpoint import MARKER, newest_checkpoint, open_checkpoint, step_folders


@dataclass(frozen=True)
class InitReport:
    """What became of every tensor.

    Args:
        source: file that was read.
        loaded: names that were taken over.
        skipped: names of the model that ``init_skip`` left as initialised.
        unused: names of the file under ``init_skip``.
    """

    source: str
    loaded: list[str]
    skipped: list[str]
    unused: list[str]

    def __str__(self) -> str:
        parts = [f"init: {len(self.loaded)} tensors from {self.source}"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} left as initialised ({_some(self.skipped)})")
        if self.unused:
            parts.append(f"{len(self.unused)} of the file not used ({_some(self.unused)})")
        return ", ".join(parts)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(self.__dict__, indent=1) + "\n", encoding="utf-8")


def init_weights(model: nn.Module, uri: str, skip: list[str]) -> InitReport:
    """Fill a model from a bundle, a run or a checkpoint.

    Args:
        model: on any device.
        uri: path or name, as for ``zoo.load``.
        skip: prefixes of names, at dots: ``head`` covers ``head.linear.weight``.

    Raises:
        CheckpointError: naming every tensor that is missing, not known or of another shape, outside the skipped prefixes.
        ConfigError: for a prefix that no tensor has.
    """
    file = weights_file(resolve(uri))
    state, found = model.state_dict(), read_header(file)

    def skips(name: str) -> bool:
        return any(name == prefix or name.startswith(f"{prefix}.") for prefix in skip)

    for prefix in skip:
        if not any(name == prefix or name.startswith(f"{prefix}.") for name in [*state, *found]):
            raise ConfigError(
                "init_skip",
                f"no parameter begins with {prefix!r}",
                f"one of {', '.join(dict.fromkeys(name.split('.')[0] for name in state))}, or a longer prefix",
            )
    wanted, given = [name for name in state if not skips(name)], [name for name in found if not skips(name)]
    problems = [f"missing: {name}" + _renamed(name, set(given) - set(wanted)) for name in wanted if name not in found]
    problems += [f"unexpected: {name}" for name in given if name not in state]
    problems += [
        f"other shape: {name} is {list(found[name].shape)} in the file, {list(state[name].shape)} in the model"
        for name in wanted
        if name in found and found[name].shape != tuple(state[name].shape)
    ]
    if problems:
        prefixes = sorted({problem.split(": ")[1].split(".")[0].split(" ")[0] for problem in problems})
        raise CheckpointError(
            f"init: {len(problems)} tensors of {file} do not fit the model:\n  "
            + "\n  ".join(problems[:40])
            + (f"\n  and {len(problems) - 40} more" if len(problems) > 40 else "")
            + f"\n  way out: leave what is new as initialised: init_skip=[{','.join(prefixes)}] (longer prefixes take less)"
        )
    with safe_open(file, framework="pt") as opened, torch.no_grad():
        for name in wanted:
            state[name].copy_(opened.get_tensor(name))
    return InitReport(str(file), wanted, [name for name in state if skips(name)], [name for name in found if skips(name)])


def weights_file(path: Path) -> Path:
    """The weights that a bundle, a run's directory or a checkpoint publishes: averaged ones where there are any, the best where it is known.

    Raises:
        CheckpointError: where there are none.
    """
    if path.is_file():
        return path
    if (path / MARKER).is_file():
        checkpoint = open_checkpoint(path)
    elif (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    elif (path / "bundle" / "model.safetensors").is_file():
        return path / "bundle" / "model.safetensors"
    else:
        newest, messages = newest_checkpoint(path / "checkpoints")
        if newest is None:
            raise CheckpointError(f"{path}: holds no weights: neither a bundle nor a complete checkpoint" + "".join(f"\n  {message}" for message in messages))
        best = newest.state["progress"]["best"]
        folders = step_folders(path / "checkpoints")
        checkpoint = open_checkpoint(folders[best["step"]]) if best and best["step"] in folders else newest
    return checkpoint.folder / (
        "ema.safetensors"
        if checkpoint.has("ema") and set(read_header(checkpoint.folder / "ema.safetensors")) == set(read_header(checkpoint.folder / "model.safetensors"))
        else "model.safetensors"
    )


def _renamed(name: str, candidates: set[str]) -> str:
    close = near(name, candidates, limit=1)
    return f" (renamed to {close[0]}?)" if close else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
