"""A model that was damaged in the cache: never loaded, made again where that can be, refused where it cannot. Imports no torch."""

import sys
from pathlib import Path

from zoo.errors import CheckpointError
from zoo.hub.cache import Cache
from zoo.hub.source import SOURCE, read_source
from zoo.hub.wanted import refuse_offline


def intact(folder: Path, cache: Cache, command: str) -> bool:
    """Whether a model is here as it was written. A damaged one is removed, with a note on standard error, so that whoever asks makes it again.

    Args:
        folder: of the model; it may not be there.
        cache: that it is in.
        command: that makes it again where there is a network.

    Raises:
        OfflineError: for a damaged one that would have to be fetched, where nothing may be; it is left, so that the next command tells the same.
    """
    try:
        at_first = _identity(folder)
        cache.check_model(folder)
    except FileNotFoundError:
        return False
    except CheckpointError as error:
        damage, problem = error, str(error).partition("\n")[0]
    else:
        return True
    sums = made_of(folder)
    if not all(map(cache.right, sums)):
        refuse_offline(folder.name, None, cache.root, command, damaged=problem)
    try:
        if _identity(folder) != at_first:  # another process has made it again while this one read
            return intact(folder, cache, command)
    except FileNotFoundError:  # another process is about to
        return False
    note_damaged(damage)
    cache.discard(folder)
    for sha256 in sums:  # a bundle's files are the same files as those by their checksum
        if cache.right(sha256) is False:
            cache.expel(sha256)
    return False


def note_damaged(error: CheckpointError) -> None:
    """On standard error: a model is made again, and why."""
    sys.stderr.write(f"{str(error).partition(chr(10))[0]}: damaged, and not loaded; the model is made again\n")


def made_of(folder: Path) -> list[str]:
    """The checksums of a model's files; none where its record is what is damaged."""
    try:
        return [str(sha256) for sha256 in read_source(folder / SOURCE)["files"].values()]
    except CheckpointError:
        return []


def _identity(folder: Path) -> tuple[int, int]:
    state = (folder / SOURCE).stat()
    return state.st_ino, state.st_mtime_ns
