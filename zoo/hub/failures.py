"""Why files could not be had, for people: no source answers, or one gives another file than was asked for. Imports neither torch nor a network library."""

from collections.abc import Sequence

from zoo.errors import ZooError
from zoo.hub.answers import AttemptError
from zoo.hub.records import Record
from zoo.hub.wanted import DownloadError, OtherContentError, Sum, Teller, UnreachableError, Wanted

AGAIN = "  way out 1: try again later; what arrived is kept\n  way out 2: behind a proxy or a mirror: HTTPS_PROXY, HF_ENDPOINT, or the package index of pip"
SUMS = {Sum.SHA256: "sha256", Sum.GIT: "git's SHA-1", Sum.BEGINNING: "a sha256 that begins with"}


def not_given(wanted: Wanted, failures: Sequence[AttemptError]) -> DownloadError:
    """Of one file that none of its links gave.

    Args:
        wanted: the file.
        failures: of each link, in order.
    """
    told = "".join(f"\n  {plain(link.url)}: {failure.reason}" for link, failure in zip(wanted.links, failures, strict=True))
    if any(failure.other for failure in failures):
        expected = f"{SUMS[wanted.checksum.kind]} {wanted.checksum.value}{f', {wanted.size:,} bytes' if wanted.size else ''}"
        return OtherContentError(
            f"{wanted.name}: what arrived is another file than the one that was asked for; it is not kept, and nothing was loaded\n"
            f"  expected: {expected} (told by {wanted.told_by}){told}\n{ways_out(wanted.told_by)}"
        )
    return (UnreachableError if all(failure.unreachable for failure in failures) else DownloadError)(
        f"{wanted.name}: {'its source does not give it' if len(failures) == 1 else f'none of {len(failures)} sources gives it'}{told}\n{AGAIN}"
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
    return DownloadError(f"{what}: no source gave {'them' if len(absent) > 1 else 'it'}{said}\n{AGAIN}")


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
    return "\n".join(f"  way out {number}: {way}" for number, way in enumerate(ways, 1))


def plain(url: str) -> str:
    """Without the query: signed addresses carry keys in it."""
    return url.partition("?")[0]
