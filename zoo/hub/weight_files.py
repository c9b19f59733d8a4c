"""Under which names other libraries keep the tensors of a checkpoint. Imports no torch."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from zoo.errors import CheckpointError

WHOLE, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


def pickle_of(names: Iterable[str], where: Any) -> str | None:
    """The pickle that is the model, of a folder without safetensors; None where there is none.

    Args:
        names: of the files at the top of the folder.
        where: for messages.

    Raises:
        CheckpointError: where it cannot be told which of several is meant.
    """
    found = sorted(name for name in names if name == PICKLED or PurePath(name).suffix in (".pth", ".pt"))
    if PICKLED in found or len(found) < 2:
        return PICKLED if PICKLED in found else next(iter(found), None)
    raise CheckpointError(
        f"{where}: holds {', '.join(found[:4])}, and it cannot be told which of them is the model\n  way out: one of them alone, or under the name {PICKLED}"
    )
