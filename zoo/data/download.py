"""Downloads that are checked: several addresses in turn, a pinned sha256, and nothing published before it is complete."""

import gzip
import hashlib
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from zoo.errors import DataError

TIMEOUT = 30.0
CHUNK = 1 << 20


def fetch(urls: Sequence[str], path: Path, *, sha256: str, limit: int) -> None:
    """Download to ``path`` from the first address that gives the pinned content.

    Args:
        urls: http or https addresses, in the order of trying.
        path: of the file; its folder is made.
        sha256: of the content, after gunzip where ``path`` ends in .gz: a recompressed copy is the same data.
        limit: bytes of the download at most.

    Raises:
        DataError: with what each address answered.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    answers = []
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise DataError(f"{url}: only http and https addresses are fetched")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            partial = Path(file.name)
            try:
                _copy(url, file, limit)
                file.flush()
                found = content_sha256(partial, zipped=path.suffix == ".gz")
                if found == sha256:
                    partial.chmod(0o644)
                    partial.replace(path)  # atomic: two processes that fetch the same file both publish the same bytes
                    return
                answers.append(f"{url}: its content's sha256 is {found}, expected {sha256}")
            except (OSError, urllib.error.URLError, EOFError, zlib.error, ValueError) as error:
                answers.append(f"{url}: {type(error).__name__}: {error}")
            finally:
                partial.unlink(missing_ok=True)
    raise DataError(f"{path.name} could not be downloaded:\n" + "\n".join(f"  {answer}" for answer in answers))


def content_sha256(path: Path, *, zipped: bool) -> str:
    """Of a file's content, after gunzip where it is zipped."""
    digest = hashlib.sha256()
    with gzip.open(path) if zipped else path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _copy(url: str, file: IO[bytes], limit: int) -> None:
    """Copy, going on where a broken connection left off, three times at most."""
    done, tries = 0, 3
    for attempt in range(tries):
        request = urllib.request.Request(url, headers={"User-Agent": "zoo", **({"Range": f"bytes={done}-"} if done else {})})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                if done and answer.status != 206:  # the server cannot go on: start again
                    file.seek(0)
                    file.truncate()
                    done = 0
                expected = done + int(answer.headers["Content-Length"]) if answer.headers["Content-Length"] else None
                while chunk := answer.read(CHUNK):
                    done += len(chunk)
                    if done > limit:
                        raise ValueError(f"more than the {limit} bytes that are expected")
                    file.write(chunk)
                if expected is None or done == expected:
                    return
                raise ConnectionError(f"broke off after {done} of {expected} bytes")
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == tries - 1:
                raise
        except OSError:
            if attempt == tries - 1:
                raise
        time.sleep(0.2 * 2**attempt)
