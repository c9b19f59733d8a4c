"""What bad networks do to downloads: each fault of a loopback server, many times, and what came of it.

    python tools/hub_faults.py [--rounds 10] [--patience 0.5]

Two servers: a plain one, and one that speaks the Hub's protocol to the Hub's own client (`huggingface_hub`, HF_ENDPOINT). A fault begins at a byte that is
drawn anew in each round. Where a second source is given it has no faults. Counted are downloads that ended with the right file, with one clear error
(``DownloadError``), with anything else, and caches in which a file lay under a checksum not its own. Exit code 1 where one of the last two is not 0, or where
a download failed that a retry or the second source has to save. Of a race, the time is that of all its processes together.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import markdown, use_this_tree, verdict

use_this_tree()
from tests import fault_server as faulty  # noqa: E402
from tests.hub_server import COMMIT, HubHandler  # noqa: E402
from tests.hub_server import hub as serving_hub  # noqa: E402
from tests.unit.hub.test_downloader import _race  # noqa: E402

CONTENT = bytes(range(256)) * 40_000  # 10 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Draw = Callable[[random.Random, int], list[faulty.Fault]]
"""Faults of a file of so many bytes."""

FAULTS: dict[str, Draw] = {
    "none": lambda *_: [],
    "cut connection": lambda draw, size: [faulty.cut(draw.randrange(size))],
    "cut five times": lambda draw, size: [faulty.cut(draw.randrange(size // 5)) for _ in range(5)],
    "cut, then ranges ignored": lambda draw, size: [faulty.cut(draw.randrange(1, size)), faulty.without_ranges],
    "slow bytes": lambda *_: [faulty.trickle(5)],
    "silence": lambda *_: [faulty.silence(3), faulty.silence(3)],
    "longer": lambda draw, _: [faulty.longer(draw.randrange(1, 1000))],
    "shorter": lambda draw, size: [faulty.other(CONTENT[: draw.randrange(1, size)])],
    "wrong content": lambda draw, size: [faulty.other(draw.randbytes(size))],
    "404": lambda *_: [faulty.status(404)],
    "500, then well": lambda draw, _: [faulty.status(500)] * draw.randrange(1, 4),
    "500 for good": lambda *_: [faulty.status(500)] * 50,
    "endless redirects": lambda *_: [faulty.redirect("/f")] * 50,
    "redirect": lambda *_: [faulty.redirect("/elsewhere")],
}
OVERCOME = ("none", "cut connection", "cut, then ranges ignored", "500, then well", "redirect")
"""What ends with the right file without another source."""
ON_THE_HUB = (
    "none",
    "cut connection",
    "cut five times",
    "cut, then ranges ignored",
    "slow bytes",
    "silence",
    "longer",
    "wrong content",
    "404",
    "500, then well",
)


@dataclass
class Row:
    """One line of the table.

    Args:
        name: of the fault.
        sure: whether every download has to end with the right file.
        outcomes: how many ended how.
        seconds: that each took.
        said: the last error.
    """

    name: str
    sure: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    said: str = ""

    def add(self, get: Callable[[], bytes], cache: Any, right: bytes = CONTENT, *, took: float | None = None) -> None:
        """Count one download.

        Args:
            get: makes it.
            cache: that it goes into.
            right: the file's content.
            took: seconds, where it was made before and ``get`` only tells how it ended.
        """
        from zoo.hub.wanted import DownloadError

        start = time.monotonic()
        try:
            self.outcomes["right" if get() == right else "other"] += 1
        except DownloadError as error:
            self.outcomes["error"] += 1
            self.said = " ".join(str(error).split())
        except Exception as error:  # noqa: BLE001 - counted, and told
            self.outcomes["other"] += 1
            self.said = repr(error)
        self.seconds.append(time.monotonic() - start if took is None else took)
        self.outcomes["poisoned"] += sum(hashlib.sha256(path.read_bytes()).hexdigest() != path.name for path in cache.all_blobs())

    def problem(self) -> str | None:
        """What is beyond its bound."""
        if self.outcomes["other"] or self.outcomes["poisoned"]:
            return f"{self.name}: {self.outcomes['other']} neither right nor a clear error, {self.outcomes['poisoned']} poisoned: {self.said}"
        if self.sure and self.outcomes["right"] < len(self.seconds):
            return f"{self.name}: {self.outcomes['right']} of {len(self.seconds)} right, where all have to be: {self.said}"
        return None

    def cells(self) -> list[object]:
        counts = [self.outcomes[kind] for kind in ("right", "error", "other", "poisoned")]
        return [self.name, len(self.seconds), *counts, f"{max(self.seconds):.1f}"]


def plain(name: str, rounds: int, patience: float, *, second: bool) -> Row:
    """The fault at the first source, alone or with another behind it."""
    from zoo.hub.cache import Cache
    from zoo.hub.download import Downloader
    from zoo.hub.wanted import Checksum, Link, Wanted

    row = Row(f"{name}{', second source' if second else ''}", sure=second or name in OVERCOME)
    for number in range(rounds):
        content = {"/f": CONTENT, "/elsewhere": CONTENT, "/good": CONTENT}
        faults = FAULTS[name](random.Random(f"{name} {number}"), len(CONTENT))
        with tempfile.TemporaryDirectory() as folder, faulty.serving(content, {"/f": faults}) as server:
            cache = Cache(Path(folder))
            links = [Link(f"{server.url}/f"), *([Link(f"{server.url}/good")] if second else [])]
            with Downloader(cache, patience=patience) as downloader:
                row.add(lambda: downloader.get(Wanted("model.bin", Checksum(SHA256), tuple(links), len(CONTENT))).read_bytes(), cache)  # noqa: B023
    return row


def gone(rounds: int, *, second: bool) -> Row:
    """Nobody listens at the first source."""
    from zoo.hub.cache import Cache
    from zoo.hub.download import Downloader
    from zoo.hub.wanted import Checksum, Link, Wanted

    row = Row(f"host that is gone{', second source' if second else ''}", sure=second)
    for _ in range(rounds):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder, faulty.serving({"/good": CONTENT}) as server:
            cache = Cache(Path(folder))
            links = [Link(f"http://127.0.0.1:{port}/f"), *([Link(f"{server.url}/good")] if second else [])]
            with Downloader(cache) as downloader:
                row.add(lambda: downloader.get(Wanted("model.bin", Checksum(SHA256), tuple(links), len(CONTENT))).read_bytes(), cache)  # noqa: B023
    return row


def expired(rounds: int, *, second: bool) -> Row:
    """A certificate of five days ago."""
    from zoo.hub.cache import Cache
    from zoo.hub.download import Downloader
    from zoo.hub.wanted import Checksum, Link, Wanted

    row = Row(f"expired certificate{', second source' if second else ''}", sure=second)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            old = faulty.certificate(Path(folder), days=-5)
            os.environ["SSL_CERT_FILE"] = str(old)
            bad, good = stack.enter_context(faulty.serving({"/f": CONTENT}, tls=old)), stack.enter_context(faulty.serving({"/f": CONTENT}))
            cache = Cache(Path(folder) / "cache")
            links = [Link(f"{bad.url}/f"), *([Link(f"{good.url}/f")] if second else [])]
            with Downloader(cache) as downloader:
                row.add(lambda: downloader.get(Wanted("model.bin", Checksum(SHA256), tuple(links), len(CONTENT))).read_bytes(), cache)  # noqa: B023
            del os.environ["SSL_CERT_FILE"]
    return row


def racer(folder: str, url: str, ready: Any, start: Any, results: Any) -> None:
    """Starting a process takes longer than the download."""
    ready.release()
    _race(folder, url, start, results)


def outcome(answer: str) -> bytes:
    """What a process of the race told: the file's checksum, or its error."""
    if answer != SHA256:
        raise RuntimeError(answer)
    return CONTENT


def races(rounds: int) -> Row:
    """Four processes at once, each with a lock that everybody gets, from a server that cuts and fails."""
    from zoo.hub.cache import Cache

    row = Row("four processes, locks do nothing", sure=True)
    context = multiprocessing.get_context("spawn")
    for number in range(rounds):
        draw = random.Random(number)
        faults = [
            faulty.cut(draw.randrange(len(CONTENT))),
            faulty.cut(draw.randrange(len(CONTENT))),
            faulty.status(500),
            faulty.cut(draw.randrange(len(CONTENT))),
        ]
        with tempfile.TemporaryDirectory() as folder, faulty.serving({"/f": CONTENT}, {"/f": faults}) as server:
            ready, start, results = context.Semaphore(0), context.Event(), context.Queue()
            processes = [context.Process(target=racer, args=(folder, server.url, ready, start, results)) for _ in range(4)]
            for process in processes:
                process.start()
            if not all(ready.acquire(timeout=120) for _ in processes):
                raise RuntimeError(f"race {number}: {sum(process.exitcode is not None for process in processes)} of 4 processes ended before it began")
            began = time.monotonic()
            start.set()
            found = [results.get(timeout=120) for _ in processes]
            took = time.monotonic() - began
            for process in processes:
                process.join(30)
            for answer in found:
                row.add(lambda: outcome(answer), Cache(Path(folder)), took=took)  # noqa: B023
    return row


class FaultyHub(HubHandler):
    """The Hub, whose weights come from where things go wrong."""

    faults: ClassVar[list[faulty.Fault]] = []
    begin = faulty.Handler.begin

    def do_GET(self) -> None:  # noqa: N802 - the standard library's name
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/cdn/") and path.endswith(".safetensors") and self.faults:  # a small file would be through before a cut
            parts = path.strip("/").split("/")
            content = self.repos["/".join(parts[1:3])]["/".join(parts[3:])]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self.faults.pop(0)(self, content, start)  # type: ignore[arg-type]
            return
        super().do_GET()


def hub(rounds: int) -> Iterator[Row]:
    """`zoo pull hf://...`: a bundle of zoo's own, its weights from the faulty place."""
    from zoo.hub.resolve import pretrained

    digits = pretrained()["digits_cnn"]
    files = {str(path.relative_to(digits)): path.read_bytes() for path in sorted(digits.rglob("*")) if path.is_file()}
    weights = files["model.safetensors"]
    with serving_hub({"org/digits": files}, FaultyHub) as (url, server):
        os.environ["HF_ENDPOINT"] = url  # read when the client is imported, which is now
        from zoo.hub.cache import Cache
        from zoo.hub.pull import pull

        for name in ON_THE_HUB:
            row = Row(f"Hub: {name}", sure=name in OVERCOME)
            for number in range(rounds):
                draw = random.Random(f"{name} {number}")
                server.faults = FAULTS[name](draw, len(weights))
                folder = Path(tempfile.mkdtemp())
                cache = Cache(folder)
                row.add(lambda: (pull(f"hf://org/digits@{COMMIT}", cache=cache).folder / "model.safetensors").read_bytes(), cache, weights)  # noqa: B023
                shutil.rmtree(folder)
            yield row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--patience", type=float, default=0.5, help="seconds that a source may be slow")
    options = parser.parse_args()
    os.environ["ZOO_DOWNLOAD_PATIENCE"] = str(options.patience)
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(name, None)
    rows = list(hub(options.rounds))
    rows += [plain(name, options.rounds, options.patience, second=second) for name in FAULTS for second in (False, True)]
    rows += [found(options.rounds, second=second) for found in (gone, expired) for second in (False, True)]
    rows.append(races(options.rounds))
    print(markdown(("fault", "downloads", "right file", "clear error", "anything else", "poisoned", "longest, s"), [row.cells() for row in rows]))
    total = sum((row.outcomes for row in rows), Counter[str]())
    print(f"\n{sum(len(row.seconds) for row in rows)} downloads: {total['right']} right, {total['error']} clear errors, {total['other']} others")
    for row in rows:
        if row.said and "second" not in row.name:
            print(f"  {row.name}: {row.said[:200]}")
    return verdict([problem for row in rows if (problem := row.problem()) is not None])


if __name__ == "__main__":
    sys.exit(main())
