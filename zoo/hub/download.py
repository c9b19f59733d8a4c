"""Files from web servers: resumed where they broke off, checked on arrival, from the first source that gives the right bytes. Imports no torch.

Bytes go into a partial file of this process's own (``Cache.claim``), whose name becomes that of its content when the checksum is right. So four
processes that race for a file, with locks that do nothing, cost four downloads and damage none.
"""

import hashlib
import netrc
import os
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError
from zoo.files import home
from zoo.hub.answers import MOVED, TOKEN, AttemptError, accepted, expected_length, told, untrusted
from zoo.hub.archive import FULL
from zoo.hub.cache import Cache
from zoo.hub.failures import SUMS, not_given
from zoo.hub.meter import Meter, size_of
from zoo.hub.wanted import DownloadError, Link, Sum, Wanted, refuse_offline

if TYPE_CHECKING:
    import httpx2

PROGRESS = 2**20
"""Bytes after which a source is worth as many attempts again."""
LONGEST_WAIT = 8.0
CONNECT_SECONDS = 10.0
PATIENCE = 30.0
"""Seconds within which a source has to give ``SLOWEST`` bytes a second; ``$ZOO_DOWNLOAD_PATIENCE``."""
SLOWEST = 1000
SETTINGS = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What a connection is made with."""
CHUNK = 2**20


class Downloader:
    """Gets files into a cache.

    Args:
        cache: where they go.
        patience: seconds; None takes ``$ZOO_DOWNLOAD_PATIENCE``, else ``PATIENCE``.
    """

    def __init__(self, cache: Cache, *, patience: float | None = None) -> None:
        self.cache, self.patience = cache, patience or _patience()
        self._client: httpx2.Client | None = None

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *error: object) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> "httpx2.Client":
        """With the proxies and certificates of the environment, and the passwords of ~/.netrc."""
        if self._client is None:
            import httpx2

            timeout = httpx2.Timeout(self.patience, connect=min(CONNECT_SECONDS, self.patience))
            try:
                self._client = httpx2.Client(follow_redirects=True, timeout=timeout, auth=_netrc())
            except (OSError, ValueError, ImportError) as error:  # certificates, proxies of a kind that needs another package
                told = ", ".join(name for name in SETTINGS if name in os.environ) or "none"  # without values: proxies' hold passwords
                raise DownloadError(
                    f"no connection can be made with the environment's settings ({told}): {type(error).__name__}: {error}\n"
                    "  way out: mend or unset the one that is wrong"
                ) from error
        return self._client

    def get(self, wanted: Wanted) -> Path:
        """The file in the cache.

        Raises:
            OfflineError: where it is not here and nothing may be fetched.
            DownloadError: where no source gives it; what arrived of it is kept for the next time.
        """
        if (found := self._here(wanted)) is not None:
            return found
        refuse_offline(wanted.name, wanted.size, self.cache.root, wanted.command)
        self.cache.make()
        with self._alone(wanted):
            if (found := self._here(wanted)) is not None:
                return found
            return self._fetch(wanted)

    def _here(self, wanted: Wanted) -> Path | None:
        return (self.cache.blob if wanted.checksum.kind is Sum.SHA256 else self.cache.named)(wanted.checksum.value)

    def _fetch(self, wanted: Wanted) -> Path:
        failures: list[AttemptError] = []
        partial = self.cache.claim(wanted.checksum.value)
        try:
            self._refuse_full_disk(wanted, partial)
            with Meter(wanted.name, wanted.size) as meter:
                for link in wanted.links:
                    outcome = self._from(link, partial, wanted, meter)
                    if isinstance(outcome, Path):
                        return outcome
                    failures.append(outcome)
            raise not_given(wanted, failures, kept=_size(partial))
        finally:
            self.cache.release(partial)

    def _from(self, link: Link, partial: Path, wanted: Wanted, meter: Meter) -> Path | AttemptError:
        """The file from one source, or why not."""
        tries = restarts = 0
        most = _size(partial)
        while True:
            try:
                return self._whole(link, partial, wanted, meter)
            except AttemptError as failure:
                if failure.anew:
                    partial.unlink(missing_ok=True)
                    restarts += 1
                else:
                    # More than ever: a server that always begins anew, and breaks off now here, now there, gets nowhere.
                    advanced = _size(partial) - most >= PROGRESS
                    tries, most = (1, _size(partial)) if advanced else (tries + 1, most)
                if (restarts if failure.anew else tries) >= failure.attempts:
                    return failure
                time.sleep(min(LONGEST_WAIT, failure.wait if failure.wait is not None else 0.25 * 2**tries))

    def _whole(self, link: Link, partial: Path, wanted: Wanted, meter: Meter) -> Path:
        """The complete, checked file, by its name.

        Raises:
            AttemptError: of this attempt.
        """
        try:
            found = self.cache.add(partial, sha256 := self._stream(link, partial, wanted, meter))
        except FileNotFoundError as error:
            raise AttemptError(f"what had arrived is gone from the cache ({error.filename})", attempts=3, anew=True) from error
        if wanted.checksum.kind is not Sum.SHA256:
            self.cache.name(wanted.checksum.value, sha256)
        return found

    def _stream(self, link: Link, partial: Path, wanted: Wanted, meter: Meter) -> str:
        """What is lacking of the file; its sha256.

        Raises:
            AttemptError: of this attempt.
        """
        import httpx2

        start = _size(partial)
        if wanted.size is not None and start >= wanted.size:
            start = 0 if start > wanted.size else start
        digest = _digest(partial, start)
        if start != wanted.size:
            headers = {"Accept-Encoding": "identity", **link.headers} | ({"Range": f"bytes={start}-"} if start else {})
            try:
                with self.client.stream("GET", link.url, headers=headers) as response:
                    if not accepted(response, start):
                        start, digest = 0, hashlib.sha256()
                    expected = expected_length(response, start, wanted.size)
                    self._receive(response, partial, start, digest, expected, meter)
            except ssl.SSLError as error:
                raise untrusted(str(error)) from error
            except httpx2.InvalidURL as error:
                raise AttemptError(f"no address ({error})", attempts=1, way=MOVED) from error
            except UnicodeEncodeError as error:  # without its text, which may be a password
                raise AttemptError("cannot be asked: a header of the request has letters beyond ASCII", attempts=1, way=TOKEN) from error
            except UnicodeError as error:  # a part of a host's name that is longer than any
                raise AttemptError(f"no address ({error})", attempts=1, way=MOVED) from error
            except httpx2.HTTPError as error:
                raise told(error) from error
        return _checked(partial, digest, wanted, resumed=start > 0)

    def _receive(self, response: "httpx2.Response", partial: Path, start: int, digest: Any, expected: int | None, meter: Meter) -> None:
        """Bytes into the file, as long as they come fast enough and are no more than there have to be."""
        received, mark, marked = start, time.monotonic(), start
        meter.at(received, expected)
        try:
            with partial.open("r+b" if partial.exists() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                for chunk in response.iter_raw():  # as they come: a larger piece would hide how slowly
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    if expected is not None and received > expected:
                        raise AttemptError(f"sends more than the {expected:,} bytes that it has to be", attempts=1, anew=True, other=True)
                    if (now := time.monotonic()) - mark > self.patience:
                        if received - marked < SLOWEST * (now - mark):
                            raise AttemptError(f"too slow: {received - marked:,} bytes in {now - mark:.0f} s", attempts=1)
                        mark, marked = now, received
                    meter.at(received, expected)
        except OSError as error:
            if isinstance(error, FileNotFoundError | ConnectionError | TimeoutError | ssl.SSLError):  # told elsewhere
                raise
            problem = "the disk is full" if error.errno in FULL else f"cannot be written to: {error.strerror or error}"
            raise DownloadError(
                f"{partial.parent}: {problem}; {received:,} bytes of {meter.name} are there\n  way out: make room, or ZOO_CACHE=FOLDER on another disk"
            ) from error
        if expected is not None and received < expected:
            raise AttemptError(f"broke off after {received:,} of {expected:,} bytes")

    def _refuse_full_disk(self, wanted: Wanted, partial: Path) -> None:
        if wanted.size is not None and (free := shutil.disk_usage(partial.parent).free) < wanted.size - _size(partial):
            raise DownloadError(
                f"{wanted.name} has {size_of(wanted.size)}, and {partial.parent} has room for {size_of(free)}\n  way out: ZOO_CACHE=FOLDER on another disk"
            )

    @contextmanager
    def _alone(self, wanted: Wanted) -> Iterator[None]:
        """Wait while another process fetches the same file. A lock that cannot be had, or whose owner gets nowhere, is not waited for."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.cache.blobs / f"{wanted.checksum.value}.lock")
        begun = time.monotonic()
        while True:
            try:
                lock.acquire(timeout=0.2)
            except Timeout:
                if time.monotonic() - begun > self.patience and not self.cache.growing(wanted.checksum.value, self.patience):
                    break
                continue
            except (OSError, NotImplementedError):  # a file system without locks
                pass
            break
        try:
            yield
        finally:
            lock.release()


def _checked(partial: Path, digest: Any, wanted: Wanted, *, resumed: bool) -> str:
    """The sha256 of what is there.

    Raises:
        AttemptError: where it is not what was wanted.
    """
    sha256: str = digest.hexdigest()
    found = git_sum(partial) if wanted.checksum.kind is Sum.GIT else sha256
    if not (found.startswith(wanted.checksum.value) if wanted.checksum.kind is Sum.BEGINNING else found == wanted.checksum.value):
        # What was there before may have been another source's: once more from the beginning.
        raise AttemptError(
            f"its content has {'sha256' if found == sha256 else SUMS[wanted.checksum.kind]} {found} ({_size(partial):,} bytes)",
            attempts=2 if resumed else 1,
            anew=True,
            other=True,
        )
    return sha256


def git_sum(path: Path) -> str:
    """Git's name of a file's content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _digest(path: Path, start: int) -> Any:
    """Of the first ``start`` bytes."""
    digest = hashlib.sha256()
    if start:
        with path.open("rb") as file:
            while start and (chunk := file.read(min(CHUNK, start))):
                digest.update(chunk)
                start -= len(chunk)
    return digest


def _netrc() -> Any:
    import httpx2

    file = home(os.environ.get("NETRC", "~/.netrc"))
    if not file.is_file():
        return None
    try:
        return httpx2.NetRCAuth(str(file))
    except (netrc.NetrcParseError, OSError, ValueError) as error:
        raise DownloadError(f"{file}: cannot be read as passwords: {error}\n  way out: mend it, or NETRC=/dev/null") from error


def _patience() -> float:
    told = os.environ.get("ZOO_DOWNLOAD_PATIENCE", "")
    try:
        seconds = float(told or PATIENCE)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise ZooError(f"ZOO_DOWNLOAD_PATIENCE={told!r}: seconds are needed, more than 0\n  way out: unset it; {PATIENCE:g} is what it is without")
    return seconds


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
