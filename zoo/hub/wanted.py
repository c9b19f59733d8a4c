"""What is wanted of the network: a file, its checksum, where it can be had; and that nothing may be. Imports neither torch nor a network library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from zoo.errors import ZooError
from zoo.fetching import may_fetch, offline
from zoo.hub.meter import size_of


class DownloadError(ZooError):
    """A file that no source gave; says why of each."""


class OtherContentError(DownloadError):
    """A file that a source gave with another content than the one that was asked for."""


class UnreachableError(DownloadError):
    """A file whose every source is a host that does not answer at all."""


class OfflineError(DownloadError):
    """A file that is not here, where nothing may be fetched."""


class Sum(StrEnum):
    SHA256 = "sha256"
    GIT = "git"
    BEGINNING = "beginning"


@dataclass(frozen=True)
class Checksum:
    """What a file's content has to come to.

    Args:
        value: hexadecimal.
        kind: sha256; git's own of a blob: the SHA-1 of ``blob SIZE\\0`` and the content, which is what the hub tells of small files; or the beginning of
            the sha256, which is all that the names of torchvision's files tell.
    """

    value: str
    kind: Sum = Sum.SHA256

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


@dataclass(frozen=True)
class Link:
    """Where a file can be had.

    Args:
        url: of it.
        headers: sent with the request; to this host only.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Teller(StrEnum):
    """Who told a checksum."""

    ADDRESS = "the address"
    RECORD = "the record"
    HUB = "the hub's list of the files"
    NAME = "the file's own name"


@dataclass(frozen=True)
class Wanted:
    """A file.

    Args:
        name: for people.
        checksum: of its content.
        links: in the order in which they are tried.
        size: in bytes, where it is known; a source that tells another is not asked for the rest.
        command: what gets it where there is a network.
        told_by: whose the checksum is.
    """

    name: str
    checksum: Checksum
    links: tuple[Link, ...]
    size: int | None = None
    command: str = "zoo pull"
    told_by: Teller = Teller.ADDRESS


def refuse_offline(name: str, size: int | None, place: Path, command: str, *, damaged: str = "") -> None:
    """Nothing, where files may be fetched now.

    Args:
        name: of the file or the model, for people.
        size: in bytes, where it is known.
        place: of the cache.
        command: what gets it where there is a network.
        damaged: what is wrong with what is in the cache of it.

    Raises:
        OfflineError: where they may not; names the file and the command.
    """
    if (variable := offline()) is not None:
        reason, other = f"{variable} is set, so that nothing is fetched", f"unset {variable}"
    elif not may_fetch():
        reason, other = "nothing is fetched at this point", "the command above, before"
    else:
        return
    lacking = f"{damaged}: damaged, and not loaded" if damaged else f"{name}{f' ({size_of(size)})' if size else ''} is not in the cache {place}"
    raise OfflineError(f"{lacking}, and {reason}\n  way out 1: where there is a network: {command}, then take {place} along (ZOO_CACHE)\n  way out 2: {other}")
