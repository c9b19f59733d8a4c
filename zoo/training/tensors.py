"""Tensors on disk: safetensors files, hashed as they are written, and a strict way back.

``safetensors.torch.save_file`` copies every tensor into bytes first and holds the interpreter while it writes. A checkpoint is written beside
the training, so that this writer hands each tensor's memory to the file and to the hash, both of which release the interpreter.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import CheckpointError, did_you_mean

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
CHUNK = 1 << 24


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write a safetensors file and force it to disk; its size and sha256.

    Args:
        path: of the new file.
        tensors: on the CPU, contiguous.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for block in (memoryview(len(head).to_bytes(8, "little") + head), *map(_memory, tensors.values())):
            for start in range(0, len(block), CHUNK):
                piece = block[start : start + CHUNK]
                digest.update(piece)
                while len(piece):  # a raw write may take less than it was given
                    piece = piece[file.write(piece) :]
        os.fsync(file.fileno())
        return file.tell(), digest.hexdigest()


def _memory(tensor: Tensor) -> memoryview:
    assert tensor.device.type == "cpu"
    assert tensor.is_contiguous()
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy()).cast("B") if tensor.numel() else memoryview(b"")  # type: ignore[arg-type]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointError: where it is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def load_strictly(into: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Copy ``found`` into ``into``. Every tensor on either side is accounted for, or nothing is copied.

    Raises:
        CheckpointError: with each tensor that is missing, not known, or of another shape or type.
    """
    problems = [f"{name} is missing ({did_you_mean(name, set(found) - set(into))})" for name in into if name not in found]
    problems += [f"{name} has no place in the model" for name in found if name not in into]
    for name, target in into.items():
        if name in found and (found[name].shape != target.shape or found[name].dtype != target.dtype):
            problems.append(f"{name} is {_describe(found[name])}, the model's is {_describe(target)}")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise CheckpointError(f"{where} does not fit:\n{listed}")
    with torch.no_grad():
        for name, target in into.items():
            target.copy_(found[name])


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
