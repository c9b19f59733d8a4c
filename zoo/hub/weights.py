"""``model.safetensors``: written from a state, read strictly. Nothing here can unpickle.

Format: https://huggingface.co/docs/safetensors: 8 bytes with the header's length, a JSON header of names, types, shapes and byte ranges,
then the bytes.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo.errors import CheckpointError, near
from zoo.training.tensors import write_tensors

MAX_HEADER = 100_000_000
"""Bytes; the format's own limit."""
SHOWN = 40
"""Tensors that a message names one by one."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as a file's header declares it."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Every tensor under its own name, on disk when this returns. Tensors that share memory (tied weights) are written once for each name."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    write_tensors(path, tensors)


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Names, types and shapes that a file declares, checked against its size.

    Raises:
        CheckpointError: for a pickle under this name, and for headers that lie or are damaged.
    """
    refuse_pickle(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise CheckpointError(
                f"{path}: no safetensors file: it declares a header of {length:,} bytes and has {max(size - 8, 0):,} after it\n  way out: get the file again"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        entries = {name: TensorEntry(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
        with safe_open(path, framework="pt") as opened:  # checks types, shapes and ranges against each other and against the file
            if set(opened.keys()) != set(entries):
                raise CheckpointError(f"{path}: the header names a tensor twice")
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file: {type(error).__name__}: {error}\n  way out: get the file again") from error
    return entries


def refuse_pickle(path: Path) -> None:
    """Say plainly what a pickle under a safe name is.

    Raises:
        CheckpointError: if the file begins as pickles (PyTorch's zip archives included) do.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # where safetensors' header begins; its length before that may happen to look like a pickle's first bytes
        return
    if start.startswith(b"PK") or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        raise CheckpointError(
            f"{path} is a pickle (PyTorch archive), not safetensors; pickles can run code when they are opened, so zoo reads none\n"
            "  way out: ask its author for safetensors, or, where you trust the file, convert it:\n"
            "  safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
        )


def compare(expected: Mapping[str, Tensor], found: Mapping[str, TensorEntry], where: Path) -> None:
    """Every tensor of the model is in the file and every one of the file in the model, in the same shape.

    Raises:
        CheckpointError: naming each missing, unexpected and reshaped tensor (R6).
    """
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    lines = [f"  missing: {name} {list(expected[name].shape)}" + (renamed(name, unexpected) if place < SHOWN else "") for place, name in enumerate(missing)]
    lines += [f"  unexpected: {name} {found[name]}" + (renamed(name, missing) if len(lines) + place < SHOWN else "") for place, name in enumerate(unexpected)]
    for name in sorted(set(expected) & set(found)):
        if tuple(expected[name].shape) != found[name].shape:
            lines.append(f"  other shape: {name} is {list(found[name].shape)} in the file, {list(expected[name].shape)} in the model")
        elif expected[name].is_floating_point() != found[name].dtype.startswith(("F", "BF")):
            lines.append(f"  other type: {name} is {found[name].dtype} in the file, {str(expected[name].dtype).removeprefix('torch.')} in the model")
    if lines:
        raise CheckpointError(
            f"{where}: {len(lines)} of {len(set(expected) | set(found))} tensors do not fit the model that config.yaml describes\n"
            + "\n".join(lines[:SHOWN] + ([f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []))
        )


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from a file, strictly; the model's own types are kept.

    Raises:
        CheckpointError: where the two do not fit in every tensor.
    """
    state = model.state_dict()
    compare(state, read_header(path), path)
    with safe_open(path, framework="pt") as opened, torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(opened.get_tensor(name))


def renamed(name: str, candidates: Collection[str]) -> str:
    """A hint at what a tensor may be called now; nothing where no name is near."""
    close = near(name, candidates, limit=1)
    return f" (renamed to {close[0]}?)" if close else ""
