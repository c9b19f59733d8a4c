"""A folder with a checkpoint in its own library's layout -> a bundle in the cache. Imports no torch unless it has to be converted."""

import shlex
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from zoo.errors import CheckpointError
from zoo.hub.bundle import CONFIG
from zoo.hub.cache import Cache
from zoo.hub.files import read_plain_json
from zoo.hub.hugging_face import BUNDLES, USED
from zoo.hub.repair import intact
from zoo.hub.weight_files import INDEX, WHOLE, pickle_of

FOREIGN = "config.json"
"""What tells a foreign checkpoint; a bundle of zoo has ``config.yaml``."""
POOLINGS = "[0-9]_Pooling/config.json"
FOREIGN_FILES = tuple(name for name in USED if name not in BUNDLES and not name.startswith("model-"))
"""What converters read beside the parts that an index names, and pickles."""


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a checkpoint that is to be converted."""
    try:
        return folder.is_dir() and (folder / FOREIGN).is_file() and not (folder / CONFIG).exists()
    except (OSError, ValueError):  # longer than a path may be, or not to be looked at
        return False


def only_tensors(folder: Path) -> bool:
    """Whether a foreign checkpoint is of a family that nothing reads, and its tensors can be had all the same."""
    from zoo.hub.convert import converter_of

    if not (folder / WHOLE).is_file():
        return False
    try:
        converter_of({FOREIGN: folder / FOREIGN})
    except CheckpointError:
        return True
    return False


def nothing_to_convert(place: Path) -> CheckpointError:
    """Why a file or folder that is here is not pulled.

    Args:
        place: no folder of ``is_foreign``.
    """
    if not place.is_dir():
        return CheckpointError(f"{place}: is a file; a model is a folder\n  way out: the folder that it is in, or that it is unpacked to")
    if (place / CONFIG).is_file():
        return CheckpointError(f"{place}: is zoo's own already (it has a {CONFIG}); nothing has to be pulled\n  way out: zoo predict {place} ...")
    return CheckpointError(
        f"{place}: the folder holds neither {CONFIG}, as a bundle of zoo does, nor {FOREIGN}, as another library's checkpoint does\n"
        "  way out: the folder that has one of them: that save_pretrained of transformers wrote, or that `zoo train` told at its end"
    )


def converted(folder: Path, *, cache: Cache | None = None) -> Path:
    """The bundle of a foreign checkpoint's folder, made once for as long as its files keep their size, inode and time.

    Args:
        folder: as its library saved it.
        cache: where the bundle goes; the user's, if not given.

    Raises:
        CheckpointError: for what is damaged, hostile, or of a format that nothing reads.
    """
    from zoo.hub.convert import convert, converter_of
    from zoo.hub.made import fresh_model, key_of, laid_out

    cache = cache or Cache()
    folder = folder.resolve()
    files = used_files(folder)
    read_by = converter_of(files)
    seen = _states(files)
    # Where it lies belongs to the key: a folder that was moved is asked for, and pruned, by its new path.
    target = cache.model(folder.name, key_of(seen | {"/": str(folder)}, read_by, {}))
    if intact(target, cache, f"zoo pull {shlex.quote(str(folder))}"):
        return target
    cache.make()
    with (
        fresh_model(target, name=str(folder), source=str(folder), files={}) as fresh,
        tempfile.TemporaryDirectory(prefix=".snapshot-", dir=cache.models) as snapshot,
    ):
        # The converter sees what the key was made of, and nothing else that lies in the folder.
        laid_out(files, Path(snapshot), link=lambda file, place: place.symlink_to(file))
        convert(Path(snapshot), fresh, read_by, {}, name=folder.name, source=folder.name)
        if _states(files) != seen:
            raise CheckpointError(f"{folder}: its files changed while they were read\n  way out: the same command again, when whoever writes them has ended")
    return target


def used_files(folder: Path) -> dict[str, Path]:
    """What a checkpoint is made of: name -> file.

    Raises:
        CheckpointError: for links that lead out of it, and where it cannot be told which of several pickles is meant.
    """
    names = {path.name: path for path in folder.iterdir() if path.is_file()}
    names |= {str(path.relative_to(folder)): path for path in folder.glob(POOLINGS) if path.is_file()}
    files = {name: path for name, path in names.items() if any(fnmatchcase(name, pattern) for pattern in FOREIGN_FILES)}
    if INDEX in files and WHOLE not in files:
        parts = read_plain_json(files[INDEX]).get("weight_map")
        told = {str(part) for part in parts.values()} if isinstance(parts, dict) else set()
        files |= {name: names[name] for name in told if name in names}
    elif WHOLE not in files:
        chosen = pickle_of((name for name in names if "/" not in name), folder)
        files |= {} if chosen is None else {chosen: names[chosen]}
    inside = (folder, folder.parent.parent / "blobs")  # the hub's own cache keeps its files there, and links to them
    for name, path in files.items():
        if not any(path.resolve().is_relative_to(place) for place in inside):
            raise CheckpointError(
                f"{path}: a link that leads out of the folder; what lies there would become part of the model: refused\n  way out: copy the file to the folder"
            )
        files[name] = path.resolve()
    return files


def _states(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: f"{told.st_size}-{told.st_ino}-{told.st_mtime_ns}" for name, path in files.items() for told in (path.stat(),)}
