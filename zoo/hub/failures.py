"""Why files could not be had, for people: no source answers, or one gives another file than was asked for. Imports neither torch nor a network library."""

import re
from collections.abc import Iterable, Sequence

from zoo.errors import ZooError
from zoo.hub.answers import AttemptError
from zoo.hub.records import Record
from zoo.hub.wanted import DownloadError, OtherContentError, Sum, Teller, UnreachableError, Wanted

AGAIN = "try again later"
KEPT = f"{AGAIN}; what arrived is kept"
AROUND = "behind a proxy or a mirror: HTTPS_PROXY, HF_ENDPOINT, or the package index of pip"
SUMS = {Sum.SHA256: "sha256", Sum.GIT: "git's SHA-1", Sum.BEGINNING: "a sha256 that begins with"}


def not_given(wanted: Wanted, failures: Sequence[AttemptError], *, kept: int = 0) -> DownloadError:
    """Of one file that none of its links gave.

    Args:
        wanted: the file.
        failures: of each link, in order.
        kept: bytes of it that are here now.
    """
    told = "".join(f"\n  {plain(link.url)}: {failure.reason}" for link, failure in zip(wanted.links, failures, strict=True))
    if any(failure.other for failure in failures):
        expected = f"{SUMS[wanted.checksum.kind]} {wanted.checksum.value}{f', {wanted.size:,} bytes' if wanted.size else ''}"
        return OtherContentError(
            f"{wanted.name}: what arrived is another file than the one that was asked for; it is not kept, and nothing was loaded\n"
            f"  expected: {expected} (told by {wanted.told_by}){told}\n{ways_out(wanted.told_by)}"
        )
    again = KEPT if kept else AGAIN
    ways = [failure.way or again for failure in failures] + [AROUND for failure in failures if not failure.way]
    return (UnreachableError if all(failure.unreachable for failure in failures) else DownloadError)(
        f"{wanted.name}: {'its source does not give it' if len(failures) == 1 else f'none of {len(failures)} sources gives it'}{told}\n{numbered(ways)}"
    )


def absent_of(found: Record, absent: Sequence[str], reasons: Sequence[ZooError]) -> DownloadError:
    """Of a record's files that none of its sources gave.

    Args:
        found: the record.
        absent: paths of the files.
        reasons: of the sources.
    """
    what = f"{found.name}: {', '.join(absent)}"
    said = "".join(f"\n  {line.strip()}" for reason in reasons for line in str(reason).splitlines() if "way out" not in line)
    if any(isinstance(reason, OtherContentError) for reason in reasons):
        return OtherContentError(
            f"{what}: no source gave what the record tells; another file is not kept, and nothing was loaded{said}\n{ways_out(Teller.RECORD, str(found.file))}"
        )
    ways = [way for reason in reasons for way in re.findall(r"^ *way out(?: \d+)?: (.*)$", str(reason), re.MULTILINE)]
    again = [KEPT] if KEPT in ways else [AGAIN] if AGAIN in ways else []
    rest = [way for way in ways if way not in (AGAIN, KEPT)]
    return DownloadError(f"{what}: no source gave {'them' if len(absent) > 1 else 'it'}{said}\n{numbered([*again, *rest] or [AGAIN])}")


def ways_out(teller: Teller, file: str = "") -> str:
    """What to do about a source that gives another file.

    Args:
        teller: whose the checksum is.
        file: of the record.
    """
    where = f"{teller}{f' {file}' if file else ''}"
    if teller in (Teller.ADDRESS, Teller.RECORD):  # what users write
        ways = [
            f"see whether the checksum in {where} is the one that the publisher tells (`sha256sum FILE` gives that of a copy you trust)",
            f"if the publisher has changed the file, and you trust the new one: the new checksum in {where}",
        ]
    else:
        ways = ["the same command again, should the publisher be changing the file just now"]
    ways.append("another source or mirror; a proxy's or a login page may have come in the file's place")
    return numbered(ways)


def numbered(ways: Iterable[str]) -> str:
    """Ways out, each once; a single one has no number."""
    different = list(dict.fromkeys(ways))
    return "\n".join(f"  way out{f' {number}' if len(different) > 1 else ''}: {way}" for number, way in enumerate(different, 1))


def plain(url: str) -> str:
    """Without the query: signed addresses carry keys in it."""
    return url.partition("?")[0]
