"""Archives from outside, unpacked: no path leads out of the folder, nothing is a link or a device, and there are no more bytes than allowed.

What an archive says of itself is checked before a byte is written, and what comes out of it is counted, since it may lie.
"""

import errno
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from zoo.errors import CheckpointError
from zoo.hub.uri import inside

MAX_MEMBERS = 20_000
MAX_BYTES = 200 * 2**30
"""Unpacked, where nothing else is known: far more than the largest models, far less than a bomb."""
CHUNK = 2**20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file system that takes no more."""
TORCH = "data.pkl"
"""In the archives that ``torch.save`` writes, which are zip files too."""
ENDINGS = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ANOTHER = "  way out: another copy of it, with the checksum of that one; `unzip -t FILE` or `tar tf FILE` tells whether one is whole"


def is_archive(path: Path) -> bool:
    """A zip or tar file that stands for what is in it; not one of ``torch.save``."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as opened:
                return not any(name.rpartition("/")[2] == TORCH for name in opened.namelist())
        return tarfile.is_tarfile(path)
    except (OSError, zipfile.BadZipFile, tarfile.TarError):
        return False


def check_named(path: Path) -> None:
    """Whether a file that is no archive is not called one.

    Raises:
        CheckpointError: where its name says that it is.
    """
    if path.name.lower().endswith(ENDINGS) and not zipfile.is_zipfile(path):  # one of ``torch.save`` is whole
        problem = "the archive is empty: 0 bytes" if not path.stat().st_size else "the archive is damaged: neither the whole of a zip nor of a tar file"
        raise CheckpointError(f"{path.name}: {problem}\n{ANOTHER}")


def unpack(archive: Path, folder: Path, *, limit: int = MAX_BYTES) -> list[str]:
    """Everything in it, below a folder; names of the files.

    Args:
        archive: zip, or tar with any of Python's compressions.
        folder: new or empty.
        limit: bytes that may come out of it.

    Raises:
        CheckpointError: for an archive that is damaged, hostile or too large; nothing of it lies outside the folder then.
    """
    names = []
    room = limit
    with _members(archive, limit) as members:
        for name, stream in members:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            room -= _copy(stream, target, room, archive)
            names.append(name)
    if not names:
        raise CheckpointError(f"{archive.name}: the archive is empty: no file is in it\n{ANOTHER}")
    return names


def extract(archive: Path, name: str, target: Path, *, limit: int = MAX_BYTES) -> None:
    """One member, into a file.

    Raises:
        CheckpointError: where it is not in the archive, or as for ``unpack``.
    """
    with _members(archive, limit) as members:
        for found, stream in members:
            if found == name:
                _copy(stream, target, limit, archive)
                return
    raise CheckpointError(f"{archive.name}: has no file {name}")


def names_of(archive: Path) -> list[str]:
    """Of the files in it."""
    with _members(archive, MAX_BYTES) as members:
        return [name for name, _ in members]


@contextmanager
def _members(archive: Path, limit: int) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                yield _zipped(opened, archive, limit)
        else:
            with tarfile.open(archive) as tar:
                yield _tarred(tar, archive, limit)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        if isinstance(error, OSError) and error.errno in FULL:  # nothing is wrong with the archive
            raise CheckpointError(
                f"{archive.name}: the disk is full; what is in it has no room below {archive.parent}\n  way out: make room, or ZOO_CACHE=FOLDER on another disk"
            ) from error
        if isinstance(error, NotImplementedError) or getattr(error, "errno", None) is not None:  # another packing, or this disk: not the archive's fault
            raise CheckpointError(f"{archive.name}: cannot be unpacked: {type(error).__name__}: {error}\n  way out: see what `unzip` or `tar` say") from error
        raise CheckpointError(f"{archive.name}: the archive is damaged: {error or type(error).__name__}\n{ANOTHER}") from error
    except Exception as error:
        raise CheckpointError(f"{archive.name}: the archive is damaged: {type(error).__name__}: {error}\n{ANOTHER}") from error


def _zipped(opened: zipfile.ZipFile, archive: Path, limit: int) -> Iterator[tuple[str, IO[bytes]]]:
    entries = opened.infolist()
    _check([entry.filename for entry in entries], sum(entry.file_size for entry in entries), archive, limit)
    for entry in entries:
        if entry.is_dir():
            continue
        mode = entry.external_attr >> 16
        if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise CheckpointError(f"{archive.name}: {entry.filename} is a link or a device; refused")
        if entry.flag_bits & 1:
            raise CheckpointError(f"{archive.name}: {entry.filename} is encrypted")
        with opened.open(entry) as stream:
            yield entry.filename, stream


def _tarred(tar: tarfile.TarFile, archive: Path, limit: int) -> Iterator[tuple[str, IO[bytes]]]:
    seen: list[str] = []
    size = 0
    for entry in tar:  # one after the other: the list of a bomb's members alone may take for ever
        if entry.isdir():
            _check([entry.name], size, archive, limit)
            continue
        size += entry.size
        seen.append(entry.name.removeprefix("./"))
        _check(seen if len(seen) < 2 else [seen[-1]], size, archive, limit, count=len(seen))
        if not entry.isreg():
            raise CheckpointError(f"{archive.name}: {entry.name} is a link or a device; refused")
        if seen[-1] in seen[:-1]:
            raise CheckpointError(f"{archive.name}: names {entry.name} twice; refused")
        stream = tar.extractfile(entry)
        assert stream is not None, "a regular file"
        with stream:
            yield seen[-1], stream


def _check(names: list[str], size: int, archive: Path, limit: int, count: int | None = None) -> None:
    if (count or len(names)) > MAX_MEMBERS:
        raise CheckpointError(f"{archive.name}: more than {MAX_MEMBERS:,} files in it; refused")
    if size > limit:
        raise CheckpointError(f"{archive.name}: {size:,} bytes would come out of it, {limit:,} are allowed; refused")
    for name in names:
        if not inside(name.removeprefix("./").rstrip("/") or "."):
            raise CheckpointError(f"{archive.name}: {name!r} leads out of its folder; refused")
    files = [name for name in names if not name.endswith("/")]
    if len(set(files)) != len(files):
        twice = next(name for name in files if files.count(name) > 1)
        raise CheckpointError(f"{archive.name}: names {twice} twice; refused")


def _copy(stream: IO[bytes], target: Path, room: int, archive: Path) -> int:
    """Bytes written."""
    written = 0
    with target.open("xb") as file:
        while chunk := stream.read(CHUNK):
            written += len(chunk)
            if written > room:
                raise CheckpointError(f"{archive.name}: more bytes come out of it than it declares or than are allowed; refused")
            file.write(chunk)
    return written


def unpack_inner(archive: Path, path: str, folder: Path, *, limit: int = MAX_BYTES) -> Path:
    """What lies at a path in an archive, parts of which may be archives themselves: a file, or a folder, below ``folder``.

    Raises:
        CheckpointError: where there is nothing.
    """
    names = names_of(archive)
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        head, rest = "/".join(parts[:end]), "/".join(parts[end:])
        if head in names:
            target = folder / parts[end - 1]
            extract(archive, head, target, limit=limit)
            if not rest:
                return target
            if not is_archive(target):
                check_named(target)
                raise CheckpointError(f"{archive.name}: {head} is no archive, so that there is no {rest} in it")
            below = folder / f"{parts[end - 1]}.d"
            below.mkdir()
            found = unpack_inner(target, rest, below, limit=limit)
            target.unlink()
            return found
    if not any(name.startswith(f"{path}/") for name in names):
        tops = sorted({name.partition("/")[0] for name in names})
        raise CheckpointError(f"{archive.name}: has nothing at {path}; at its top are {', '.join(tops[:8])}")
    whole = folder / "all"
    unpack(archive, whole, limit=limit)
    found = whole / path
    kept = folder / (parts[-1] + ".folder")
    shutil.move(found, kept)
    shutil.rmtree(whole)
    return kept
