"""A folder with a checkpoint in its own library's layout -> a bundle in the cache. Imports no torch unless it has to be converted."""

import shutil
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path

from zoo.errors import CheckpointError
from zoo.hub.bundle import CONFIG
from zoo.hub.cache import SOURCE, Cache, remove_folder, write_source
from zoo.hub.hugging_face import PICKLED, USED
from zoo.hub.repair import note_damaged

FOREIGN = "config.json"
"""What tells a foreign checkpoint; a bundle of zoo has ``config.yaml``."""


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a checkpoint that is to be converted."""
    try:
        return folder.is_dir() and (folder / FOREIGN).is_file() and not (folder / CONFIG).exists()
    except (OSError, ValueError):  # longer than a path may be, or not to be looked at
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
    from zoo.hub.made import key_of

    cache = cache or Cache()
    folder = folder.resolve()
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {name: folder / name for name in names if any(fnmatchcase(name, pattern) for pattern in (*USED, *PICKLED))}
    read_by = converter_of(files)
    prints = {name: f"{told.st_size}-{told.st_ino}-{told.st_mtime_ns}" for name, path in files.items() for told in (path.stat(),)}
    target = cache.model(folder.name, key_of(prints, read_by, {}))
    if (target / SOURCE).is_file():
        try:
            cache.check_model(target)
        except CheckpointError as error:
            note_damaged(error)
            remove_folder(target)  # made again from the folder, which is here
        else:
            return target
    cache.make()
    fresh = Path(tempfile.mkdtemp(prefix=".fresh-", dir=cache.models))
    try:
        convert(folder, fresh, read_by, {}, name=str(folder), source=str(folder))
        fresh.chmod(0o755)
        write_source(fresh, name=str(folder), source=str(folder), files={})
        try:
            fresh.rename(target)
        except OSError:
            if not (target / SOURCE).is_file():  # what is there has lost its record: nobody takes it for a model
                remove_folder(target)
                fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target
