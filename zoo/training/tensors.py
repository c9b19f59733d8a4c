"""Tensors on disk: safetensors files, hashed as they are written, and a strict way back.

``safetensors.torch.save_file`` copies every tensor into bytes first and holds the interpreter while it writes. A checkpoint is written beside
the training, so that this writer hands each tensor's memory to the file and to the hash, both of which release the interpreter.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import CheckpointError, did_you_mean
from zoo.parallel.sharding import Piece

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
_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
CHUNK = 1 << 24
PIECES = "zoo.pieces"
"""Key of a file's header: name -> shape of the whole tensor, offset of the part."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], pieces: Mapping[str, Piece] | None = None) -> tuple[int, str]:
    """Write a safetensors file and force it to disk; its size and sha256.

    Args:
        path: of the new file.
        tensors: on the CPU, contiguous.
        pieces: of the parameters that are parts of larger ones, by name; their places go to the file's header.
    """
    with path.open("wb", buffering=0) as file:
        written = write_stream(file, tensors, pieces)
        os.fsync(file.fileno())
        return written


def write_stream(file: Any, tensors: Mapping[str, Tensor], pieces: Mapping[str, Piece] | None = None) -> tuple[int, str]:
    """The bytes of a safetensors file into anything that takes bytes, as ``write_tensors`` does."""
    places = {}
    for name, tensor in tensors.items():
        if (part := piece_for(name, tensor.shape, pieces or {})) is not None:
            places[name] = {"whole": part.whole, "offset": part.offset}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | ({PIECES: json.dumps(places)} if places else {})}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    for block in (memoryview(len(head).to_bytes(8, "little") + head), *map(_memory, tensors.values())):
        for start in range(0, len(block), CHUNK):
            piece = block[start : start + CHUNK]
            digest.update(piece)
            while len(piece):  # a raw write may take less than it was given; paramiko's says nothing, and takes all
                taken = file.write(piece)
                piece = piece[len(piece) if taken is None else taken :]
    return 8 + len(head) + offset, digest.hexdigest()


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


def piece_for(name: str, shape: Sequence[int], pieces: Mapping[str, Piece]) -> Piece | None:
    """Which part of a larger tensor this is: of a parameter, or of what an optimizer keeps for each of its elements (``parameter/entry``)."""
    piece = pieces.get(name) or pieces.get(name.rpartition("/")[0])
    return piece if piece is not None and tuple(shape) == piece.shape and len(shape) else None


def read_pieces(files: Sequence[Path], pieces: Mapping[str, Piece]) -> dict[str, Tensor]:
    """Tensors that lie in one file or, in parts, in several; as a whole, or as far as this process holds them.

    Args:
        files: of one checkpoint.
        pieces: what is held here of the parameters that are sharded, by name.

    Raises:
        CheckpointError: where one of them is no such file.
    """
    if len(files) == 1 and not pieces:
        return read_tensors(files[0])
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    filled: dict[str, int] = {}
    try:
        for file in files:
            with safe_open(file, framework="pt") as stored:
                places = json.loads((stored.metadata() or {}).get(PIECES, "{}"))
                for name in stored.keys():  # noqa: SIM118 - it is no mapping
                    filled[name] = filled.get(name, 0) + _add(found, name, stored.get_slice(name), places.get(name), pieces)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{files[0]} and {len(files) - 1} more: not readable as parts of one checkpoint ({error})") from error
    if missing := [name for name, tensor in found.items() if filled[name] != tensor.numel()]:
        raise CheckpointError(f"{files[0].parent}: the files hold parts of {missing[0]}, not the whole of it ({len(missing)} tensors in all are not whole)")
    return found


def _add(found: dict[str, Tensor], name: str, stored: Any, place: Mapping[str, list[int]] | None, pieces: Mapping[str, Piece]) -> int:
    """Put what a file holds of a tensor to what is there of it already, as far as it is wanted; how many elements that were."""
    shape = tuple(stored.get_shape())
    whole, offset = (tuple(place["whole"]), tuple(place["offset"])) if place else (shape, (0,) * len(shape))
    piece = pieces.get(name) or pieces.get(name.rpartition("/")[0])
    piece = piece if piece is not None and piece.whole == whole else None
    wanted, start = (piece.shape, piece.offset) if piece else (whole, (0,) * len(whole))
    if not whole:
        found[name] = stored[...]
        return 1
    first = [max(a, b) for a, b in zip(start, offset, strict=True)]
    last = [min(a + size, b + length) for a, size, b, length in zip(start, wanted, offset, shape, strict=True)]
    if name not in found:
        found[name] = torch.empty(wanted, dtype=_DTYPES[stored.get_dtype()])
    sides = [high - low for low, high in zip(first, last, strict=True)]
    if min(sides) > 0:
        inside = tuple(slice(low - base, high - base) for low, high, base in zip(first, last, offset, strict=True))
        target = tuple(slice(low - base, high - base) for low, high, base in zip(first, last, start, strict=True))
        found[name][target] = stored[inside]
        return prod(sides)
    return 0


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
