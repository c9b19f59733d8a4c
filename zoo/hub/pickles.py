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
ZIP = b"PK\x03\x04"
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
    names = _names_in_zip(path) if is_zip(path) else _names_in_legacy(path)
    if strange := sorted(names - HARMLESS):
        raise CheckpointError(
            f"{path}: a pickle that names {', '.join(strange[:5])}, which no file of weights needs and which could run code; refused\n"
            "  way out: ask its author for safetensors"
        )


def is_zip(path: Path) -> bool:
    """Whether torch reads a file as a zip: it looks at the first bytes, where zipfile looks for a directory at the end.

    Raises:
        CheckpointError: where the two differ, so that one of them would be scanned and the other one read; for archives that are damaged.
    """
    with path.open("rb") as file:
        begins = file.read(len(ZIP)) == ZIP
    try:
        ends = zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # a directory at the end that it knows, and does not understand
        raise CheckpointError(f"{path}: damaged: {error}\n  way out: get the file again") from error
    if begins and not ends:
        raise CheckpointError(f"{path}: damaged: begins as a zip and does not end as one\n  way out: get the file again")
    if ends and not begins:
        raise CheckpointError(f"{path}: ends as a zip and begins as something else, which could run code; refused\n  way out: ask its author for safetensors")
    return begins


def _names_in_zip(path: Path) -> set[str]:
    """Names in the only pickle of an archive, as torch has written it since 1.6."""
    try:
        with zipfile.ZipFile(path) as opened:
            raw = opened.read(_only_pickle(opened, path))
    except CheckpointError:
        raise
    except Exception as error:  # a flipped bit makes zipfile raise nearly anything: another method, a password, a name in no alphabet
        raise CheckpointError(f"{path}: damaged: {type(error).__name__}: {error}\n  way out: get the file again") from error
    return set(names_in(BytesIO(raw), str(path)))


def _only_pickle(opened: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """The archive's data.pkl, where there is nothing else that torch could take for it."""
    entries = opened.infolist()
    pickles = [entry for entry in entries if entry.orig_filename.lower().endswith(".pkl")]  # torch's reader knows no case
    if [entry.orig_filename.rpartition("/")[2] for entry in pickles] != ["data.pkl"]:
        raise CheckpointError(f"{path}: no archive of torch.save: {len(pickles)} pickles in it; refused\n  way out: ask its author for safetensors")
    if opened.comment or min(entry.header_offset for entry in entries) != 0:  # zipfile looks behind what was put before an archive, torch does not
        raise CheckpointError(f"{path}: no archive of torch.save: something before or behind it; refused\n  way out: ask its author for safetensors")
    if pickles[0].file_size > MAX_PICKLE:
        raise CheckpointError(f"{path}: {pickles[0].file_size:,} bytes of instructions are more than tensors need; refused")
    return pickles[0]


def _names_in_legacy(path: Path) -> set[str]:
    """Names in the pickles that come one after the other before the tensors' bytes, as torch wrote them before 1.6."""
    with path.open("rb") as file:
        if MAGIC not in file.read(64):
            raise CheckpointError(f"{path}: no file of torch.save; refused\n  way out: ask its author for safetensors")
        file.seek(0)
        return {name for _ in range(LEGACY_PICKLES) for name in names_in(file, str(path))}


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
