"""What people call a model -> its bundle on disk: a path, the name of a record, or an address. Imports no torch until it loads."""

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import CheckpointError, did_you_mean
from zoo.files import home
from zoo.hub.records import names, records

if TYPE_CHECKING:
    from zoo.inference.predictor import Predictor

SUPPORTED = (
    "a path to a bundle, a run's directory or a checkpoint in its own library's layout, a name (`zoo list pretrained`), or an address "
    "(hf://, timm://, https://...#sha256=, pypi://)"
)


def load(uri: str | Path, *, device: str = "auto") -> "Predictor":
    """A model that is ready to ``predict``; what is not here yet is fetched.

    Args:
        uri: path of a bundle or of a run's directory, the name of a pretrained model, or an address.
        device: auto takes the accelerator if there is one, else the CPU.

    Raises:
        CheckpointError: where it does not exist, is incomplete, damaged or hostile.
        DownloadError: where it cannot be had.
    """
    folder = resolve(uri)
    from zoo.inference.predictor import Predictor

    return Predictor.load(folder, device=device)


def resolve(uri: str | Path, *, weights: bool = False) -> Path:
    """The folder that a path, a name or an address stands for; what is not here yet is fetched, and foreign checkpoints are converted, into the cache.

    Args:
        uri: path, name or address.
        weights: whether a file of nothing but tensors will do.

    Raises:
        CheckpointError: where there is none; the message says what is supported.
        DownloadError: where it cannot be had.
    """
    text = str(uri)
    if "://" not in text:
        path = home(text)
        if exists(path):
            return local(path, weights=weights)
        check_name(text)
    elif text.partition("://")[0] in STORES:
        raise CheckpointError(
            f"{text}: models are loaded from folders, names and addresses\n"
            f"  way out 1: of a run whose trainer.checkpoint_to this is: zoo export {text} --to FOLDER, then FOLDER\n  way out 2: {SUPPORTED}"
        )
    from zoo.hub.pull import pull

    return pull(text, weights=weights).folder


def exists(path: Path) -> bool:
    """Whether something is there; a text that is too long to be a path is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def local(path: Path, *, weights: bool = False) -> Path:
    """A bundle, run, checkpoint or file of zoo's as it is; the bundle of any other library's checkpoint.

    Args:
        path: that is there.
        weights: whether the tensors of a checkpoint of a family that zoo does not read will do, under their own names.
    """
    from zoo.hub.local import converted, is_foreign, only_tensors

    return path if not is_foreign(path) or (weights and only_tensors(path)) else converted(path)


STORES = ("s3", "gs", "gcs", "az", "abfs", "sftp", "ssh", "ftp", "file", "memory")
"""What checkpoints are sent to, and models are not loaded from."""


def check_name(text: str) -> None:
    """Whether something that is no folder here is the name of a pretrained model. Fetches nothing.

    Raises:
        CheckpointError: with near names.
    """
    known = names()
    if text in known:
        return
    if any(sign in text for sign in "/\\") or text.startswith("."):
        raise CheckpointError(f"{home(text)}: there is no such folder\n  way out: {SUPPORTED}")
    hint = did_you_mean(text, known) if known else "no pretrained models are recorded"
    raise CheckpointError(f"{text!r} is neither a folder here ({Path.cwd()}) nor the name of a pretrained model; {hint}\n  way out: {SUPPORTED}")


def pretrained() -> dict[str, Path]:
    """Name -> bundle of every record whose model comes with zoo."""
    return {name: found.bundle for name, found in records().items() if found.bundle is not None}
