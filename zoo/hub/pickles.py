"""Tensors out of the files that ``torch.save`` writes, without running what is in them.

A pickle is a program. The names that it could call are read from its instructions first, and anything but the rebuilding of tensors is refused by name;
only then does torch read it, with its own restricted unpickler (``weights_only=True``). What comes out is written as safetensors, once.
"""

import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from zoo.errors import CheckpointError

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
LEGACY_PICKLES = 5
"""Before torch 1.6 a file was: that number, the protocol, the system's sizes, the tree, and the names of the storages."""
MAX_PICKLE = 64 * 2**20
"""Bytes of instructions; the tensors' bytes are in other members."""
HARMLESS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch Size",
        *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")),
        *(f"torch {kind}" for kind in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")),
        "torch.storage UntypedStorage",
    }
)


def names_in(stream: IO[bytes], where: str) -> Iterator[str]:
    """``module name`` of everything that the next pickle of a stream could call or build.

    Raises:
        CheckpointError: where the instructions cannot be read, or take a name from somewhere that is not told here.
    """
    try:
        for code, argument, _ in pickletools.genops(stream):
            if code.name in ("GLOBAL", "INST"):
                yield str(argument)
            elif code.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):  # torch.save writes none: the name is put together when it runs
                raise CheckpointError(f"{where}: a pickle that hides what it calls ({code.name}); refused\n  way out: ask its author for safetensors")
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{where}: damaged, or no file of torch.save: {type(error).__name__}: {error}\n  way out: get the file again") from error


def scan(path: Path) -> None:
    """Refuse what ``torch.save`` wrote where it names anything but tensors.

    Raises:
        CheckpointError: with what it names; for files that are damaged, or that torch.save did not write.
    """
    names: list[str] = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            pickles = [entry for entry in opened.infolist() if entry.filename.endswith(".pkl")]
            if [entry.filename.rpartition("/")[2] for entry in pickles] != ["data.pkl"]:
                raise CheckpointError(f"{path}: no archive of torch.save: {len(pickles)} pickles in it; refused")
            if pickles[0].file_size > MAX_PICKLE:
                raise CheckpointError(f"{path}: {pickles[0].file_size:,} bytes of instructions are more than tensors need; refused")
            with opened.open(pickles[0]) as stream:
                names += names_in(BytesIO(stream.read(MAX_PICKLE + 1)), str(path))
    else:  # before torch 1.6: pickles one after the other, then the tensors' bytes
        with path.open("rb") as file:
            if MAGIC not in file.read(64):
                raise CheckpointError(f"{path}: no file of torch.save; refused\n  way out: ask its author for safetensors")
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                names += names_in(file, str(path))
    if strange := sorted(set(names) - HARMLESS):
        raise CheckpointError(
            f"{path}: a pickle that names {', '.join(strange[:5])}, which no file of weights needs and which could run code; refused\n"
            "  way out: ask its author for safetensors"
        )


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a scanned archive by name; those of a training's checkpoint where it holds them under ``state_dict`` or ``model``.

    Raises:
        CheckpointError: as ``scan``, and where there are no tensors by name.
    """
    import torch

    scan(path)
    try:
        with warnings.catch_warnings(action="error"):  # what torch is not sure of, is nothing to go on with
            tree: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: torch refuses it: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    if not isinstance(tree, Mapping) or not tree or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tree.items()):
        raise CheckpointError(f"{path}: holds no tensors by name")
    return {name: value.detach() for name, value in tree.items()}
