"""Names of models -> bundles on disk: a path, or a name that ``conf/pretrained`` has a record of. Imports no torch until it loads."""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from zoo.errors import CheckpointError, ZooError, did_you_mean

if TYPE_CHECKING:
    from zoo.inference.predictor import Predictor

SUPPORTED = "a path to a bundle or a run's directory, or a name (`zoo list pretrained`)"


def load(uri: str | Path, *, device: str = "auto") -> "Predictor":
    """A model that is ready to ``predict``.

    Args:
        uri: path of a bundle or of a run's directory, or the name of a pretrained model.
        device: auto takes the accelerator if there is one, else the CPU.

    Raises:
        CheckpointError: where it does not exist, is incomplete, damaged or hostile.
    """
    folder = resolve(uri)
    from zoo.inference.predictor import Predictor

    return Predictor.load(folder, device=device)


def resolve(uri: str | Path) -> Path:
    """The folder that a path or a name stands for.

    Raises:
        CheckpointError: where there is none; the message says what is supported.
    """
    text = str(uri)
    if "://" in text:
        raise CheckpointError(
            f"{text}: models are loaded from folders here\n  way out: of a run whose trainer.checkpoint_to this is: zoo export {text} --to FOLDER, then FOLDER"
            f"\n  way out: {SUPPORTED}"
        )
    path = Path(text).expanduser()
    if path.exists():
        return path
    records = pretrained()
    if text in records:
        return records[text]
    if any(sign in text for sign in "/\\") or text.startswith("."):
        raise CheckpointError(f"{path}: there is no such folder\n  way out: {SUPPORTED}")
    known = did_you_mean(text, records) if records else "no pretrained models are recorded"
    raise CheckpointError(f"{text!r} is neither a folder here ({Path.cwd()}) nor the name of a pretrained model; {known}\n  way out: {SUPPORTED}")


def pretrained() -> dict[str, Path]:
    """Name -> bundle of every record in ``conf/pretrained`` (``{bundle: path from the folder above conf}``)."""
    found: dict[str, Path] = {}
    for conf in conf_folders():
        for record in sorted((conf / "pretrained").glob("*.yaml")):
            entry = yaml.safe_load(record.read_text(encoding="utf-8"))
            if not isinstance(entry, dict) or not isinstance(entry.get("bundle"), str):
                raise ZooError(f"{record}: a record needs the key bundle: the folder's path from {conf.parent}")
            found.setdefault(record.stem, conf.parent / entry["bundle"])
    return found


def conf_folders() -> list[Path]:
    """The user's own ``./conf`` first, then zoo's: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    return [folder for folder in (Path.cwd() / "conf", package / "conf", package.parent / "conf") if folder.is_dir()]
