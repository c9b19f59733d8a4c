"""R10: downloads outlive bad networks, and what is wrong never gets into the cache."""

import hashlib
import multiprocessing
import os
import resource
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault_server import Fault, certificate, cut, from_the_beginning, headed, longer, other, redirect, serving, silence, status, trickle, without_ranges
from zoo.errors import CheckpointError
from zoo.hub.archive import unpack
from zoo.hub.cache import Cache
from zoo.hub.download import Downloader
from zoo.hub.wanted import Checksum, DownloadError, Link, OfflineError, Sum, UnreachableError, Wanted

CONTENT = bytes(range(256)) * 40_000  # 10 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.hub.download.LONGEST_WAIT", 0.05)
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def wanted(*urls: str, size: int | None = len(CONTENT)) -> Wanted:
    return Wanted("model.bin", Checksum(SHA256), tuple(Link(url) for url in urls), size)


def nothing_wrong_is_here(cache: Cache) -> None:
    """Every file that has a checksum for a name has that checksum."""
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in cache.all_blobs())


@pytest.mark.parametrize(
    ("faults", "begins"),
    [
        pytest.param([], [0], id="none"),
        pytest.param([cut(3_000_000), cut(3_000_000)], [0, 3_000_000, 6_000_000], id="cut twice"),
        pytest.param([cut(0)] * 4, [0] * 5, id="cut at once, four times"),
        pytest.param([cut(5_000_000), without_ranges], [0, 5_000_000], id="ranges ignored"),
        pytest.param([cut(5_000_000), status(416)], [0, 5_000_000, 0], id="range refused"),
        pytest.param([status(500), status(503), status(429)], [0] * 4, id="passing errors"),
        pytest.param([cut(4_000_000), status(502)], [0, 4_000_000, 4_000_000], id="cut, then an error"),
        pytest.param([headed(503, {"Retry-After": "\xb2"})], [0, 0], id="a wait that is no number"),
    ],
)
def test_one_source_gets_there(cache: Cache, faults: list[Fault], begins: list[int]) -> None:
    with serving({"/f": CONTENT}, {"/f": faults}) as server, Downloader(cache) as downloader:
        path = downloader.get(wanted(f"{server.url}/f"))
    assert path.read_bytes() == CONTENT
    assert [start for _, start in server.asked] == begins
    assert [file.name for file in cache.blobs.glob("*.partial")] == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param([status(404)], "no such file", id="404"),
        pytest.param([status(403)], "refuses", id="403"),
        pytest.param([status(500)] * 5, "status 500", id="500 for good"),
        pytest.param([longer(7)], "bytes, not 10,240,000", id="longer"),
        pytest.param([other(CONTENT[:-1])], "bytes, not 10,240,000", id="shorter"),
        pytest.param([other(b"x" * len(CONTENT))], "sha256", id="another content"),
        pytest.param([trickle(5)], "too slow", id="slow bytes"),
        pytest.param([silence(5), silence(5)], "sent nothing for too long", id="silence"),
    ],
)
def test_the_next_source_is_taken(cache: Cache, fault: list[Fault], reason: str) -> None:
    with serving({"/bad": CONTENT, "/good": CONTENT}, {"/bad": fault}) as server, Downloader(cache, patience=0.5) as downloader:
        assert downloader.get(wanted(f"{server.url}/bad", f"{server.url}/good")).read_bytes() == CONTENT
    nothing_wrong_is_here(cache)
    alone = Downloader(Cache(cache.root / "alone"), patience=0.5)
    with serving({"/bad": CONTENT}, {"/bad": fault}) as server, alone, pytest.raises(DownloadError, match=reason):
        alone.get(wanted(f"{server.url}/bad"))


def test_a_server_that_always_begins_anew_is_left(cache: Cache) -> None:
    """It breaks off now sooner and now later: no attempt after the first three gets further than one before it."""
    with serving({"/f": CONTENT}, {"/f": [from_the_beginning(1_000_000 if odd else 3_000_000) for odd in (0, 1) * 50]}) as server:
        with Downloader(cache) as downloader, pytest.raises(DownloadError, match="broke off"):
            downloader.get(wanted(f"{server.url}/f"))
        assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("faults", "way", "again"),
    [
        pytest.param([status(404)], "moved needs its new address", False, id="404"),
        pytest.param([status(401)], "hf auth login", False, id="401"),
        pytest.param([status(407)], "NO_PROXY", False, id="the proxy's login"),
        pytest.param([headed(302, {"Location": "ftp://host/f"})], "moved needs its new address", False, id="leads to another protocol"),
        pytest.param([cut(0)] * 5, "try again later\n", True, id="nothing arrived"),
        pytest.param([cut(5000), *[status(500)] * 5], "try again later; what arrived is kept\n", True, id="a part arrived"),
    ],
)
def test_ways_out_are_some(cache: Cache, faults: list[Fault], way: str, again: bool) -> None:
    """Waiting helps where the fault may pass; what is kept is said where something is."""
    with serving({"/f": CONTENT}, {"/f": faults}) as server, Downloader(cache) as downloader, pytest.raises(DownloadError) as caught:
        downloader.get(wanted(f"{server.url}/f"))
    told = f"{caught.value}\n"
    assert way in told
    assert ("try again" in told) == again
    assert ("is kept" in told) == any(cache.blobs.glob("*.partial"))


@pytest.mark.parametrize("password", ["Bearer secret\nline", "Bearer sécret€"])
def test_a_password_that_no_header_can_hold(cache: Cache, password: str) -> None:
    with serving({"/f": CONTENT}) as server, Downloader(cache) as downloader, pytest.raises(DownloadError, match=r"way out: HF_TOKEN") as caught:
        downloader.get(Wanted("f", Checksum(SHA256), (Link(f"{server.url}/f", {"Authorization": password}),)))
    assert "cret" not in str(caught.value)
    assert server.asked == []


def test_a_host_whose_name_cannot_be(cache: Cache) -> None:
    with serving({"/f": CONTENT}) as server, Downloader(cache) as downloader:
        with pytest.raises(DownloadError, match="no address"):
            downloader.get(wanted(f"http://{'a' * 70}.example/f"))
        assert downloader.get(wanted(f"http://{'a' * 70}.example/f", f"{server.url}/f")).read_bytes() == CONTENT


def test_more_than_a_known_size_is_not_taken(cache: Cache) -> None:
    """A server that says nothing of the length may send for ever."""

    def endless(handler: object, content: bytes, start: int) -> None:
        server_side = handler
        server_side.send_response(200)  # type: ignore[attr-defined]
        server_side.send_header("Connection", "close")  # type: ignore[attr-defined]
        server_side.end_headers()  # type: ignore[attr-defined]
        try:
            for _ in range(1000):
                server_side.wfile.write(b"x" * 100_000)  # type: ignore[attr-defined]
        except OSError:
            pass

    with serving({"/f": CONTENT}, {"/f": [endless]}) as server, Downloader(cache) as downloader, pytest.raises(DownloadError, match="more than the 10,240,000"):
        downloader.get(wanted(f"{server.url}/f"))
    assert sum(path.stat().st_size for path in cache.blobs.iterdir()) == 0


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The system refuses what goes beyond, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more(cache: Cache) -> None:
    with serving({"/f": CONTENT}) as server, Downloader(cache) as downloader:
        told = pytest.raises(DownloadError, match=r"blobs: the disk is full; .* bytes of model\.bin are there\n  way out: make room")
        with no_file_longer_than(5_000_000), told:
            downloader.get(wanted(f"{server.url}/f"))
        assert downloader.get(wanted(f"{server.url}/f")).read_bytes() == CONTENT
    assert server.asked[-1] == ("/f", 5_000_000)


def test_an_archive_that_the_disk_has_no_room_for(tmp_path: Path) -> None:
    """It is not the archive that is to blame."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("model.safetensors", CONTENT)
    with no_file_longer_than(5_000_000), pytest.raises(CheckpointError, match=r"a\.zip: the disk is full(?s:.*)way out: make room"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_host_that_is_gone(cache: Cache) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}/f"
    with Downloader(cache) as downloader, pytest.raises(UnreachableError, match="cannot be reached"):
        downloader.get(wanted(gone))
    with serving({"/f": CONTENT}) as server, Downloader(cache) as downloader:
        assert downloader.get(wanted(gone, f"{server.url}/f")).read_bytes() == CONTENT


def test_certificates(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is trusted serves; the same, expired, or trusted by nobody, does not, and the next source is taken at once."""
    fine, expired = certificate(tmp_path, days=5), certificate(tmp_path, days=-5)
    for trusted, served, reason in ((fine, fine, None), (expired, expired, "expired"), (expired, fine, "verify failed")):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        place = Cache(cache.root / f"{trusted.stem}_{served.stem}")
        with serving({"/f": CONTENT}, tls=served) as server, serving({"/f": CONTENT}) as other, Downloader(place) as downloader:
            if reason is not None:
                with pytest.raises(DownloadError, match=f"no trusted connection .*{reason}"):
                    downloader.get(wanted(f"{server.url}/f"))
                assert server.asked == []
            links = (f"{server.url}/f", f"{other.url}/f")
            assert downloader.get(wanted(*links)).read_bytes() == CONTENT
            assert len(other.asked) == (0 if reason is None else 1)


def test_redirects_are_followed_without_the_password(cache: Cache) -> None:
    seen: list[str | None] = []

    def look(handler: object, content: bytes, start: int) -> None:
        from tests.fault_server import whole

        seen.append(handler.headers.get("Authorization"))  # type: ignore[attr-defined]
        whole(handler, content, start)  # type: ignore[arg-type]

    with serving({"/f": CONTENT}, {"/f": [look]}) as far, serving({}, {"/f": [redirect(f"{far.url}/f")]}) as near, Downloader(cache) as downloader:
        link = Link(f"{near.url}/f", {"Authorization": "Bearer secret"})
        downloader.get(Wanted("f", Checksum(SHA256), (link,), len(CONTENT)))
    assert seen == [None]
    loop = {"/f": [redirect("/f")] * 40}
    with serving({}, loop) as server, Downloader(Cache(cache.root / "other")) as downloader, pytest.raises(DownloadError, match=r"[Rr]edirect"):
        downloader.get(wanted(f"{server.url}/f"))


def test_what_arrived_is_there_the_next_time(cache: Cache) -> None:
    with serving({"/f": CONTENT}, {"/f": [cut(6_000_000), status(404)]}) as server:
        with Downloader(cache) as downloader, pytest.raises(DownloadError):
            downloader.get(wanted(f"{server.url}/f"))
        with Downloader(cache) as downloader:
            assert downloader.get(wanted(f"{server.url}/f")).read_bytes() == CONTENT
    assert server.asked[-1] == ("/f", 6_000_000)


def test_a_wrong_beginning_costs_one_more_try(cache: Cache) -> None:
    """What is here of a file came from a source with another content."""
    with serving({"/f": CONTENT, "/g": b"y" * len(CONTENT)}, {"/g": [cut(6_000_000), status(404)]}) as server:
        with Downloader(cache) as downloader, pytest.raises(DownloadError):
            downloader.get(wanted(f"{server.url}/g"))
        with Downloader(cache) as downloader:
            assert downloader.get(wanted(f"{server.url}/f")).read_bytes() == CONTENT
    assert [start for path, start in server.asked if path == "/f"] == [6_000_000, 0]


def test_a_damaged_file_is_fetched_again(cache: Cache) -> None:
    with serving({"/f": CONTENT}) as server, Downloader(cache) as downloader:
        path = downloader.get(wanted(f"{server.url}/f"))
        assert downloader.get(wanted(f"{server.url}/f")) == path
        assert len(server.asked) == 1
        with path.open("r+b") as file:
            file.write(b"damage")
        assert downloader.get(wanted(f"{server.url}/f")).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_offline_names_the_file_and_the_command(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    told = pytest.raises(OfflineError, match=r"(?s)model\.bin \(10\.2 MB\).*ZOO_OFFLINE.*zoo pull")
    with serving({"/f": CONTENT}) as server, Downloader(cache) as downloader, told:
        downloader.get(wanted(f"{server.url}/f"))
    assert server.asked == []


def test_small_files_of_the_hub_have_gits_checksum(cache: Cache) -> None:
    """The value is what `git hash-object` gives for these bytes."""
    checksum = Checksum("ce013625030ba8dba906f756967f9e9ca394464a", Sum.GIT)
    with serving({"/f": b"hello\n"}) as server, Downloader(cache) as downloader:
        path = downloader.get(Wanted("f", checksum, (Link(f"{server.url}/f"),), 6))
    assert path.name == hashlib.sha256(b"hello\n").hexdigest()


def _race(folder: str, url: str, start: object, results: object) -> None:
    import filelock

    class Nothing(filelock.FileLock):  # type: ignore[misc,valid-type]
        """A lock that everybody gets, as some network file systems have it."""

        def _acquire(self) -> None:
            self._context.lock_file_fd = os.open(os.devnull, os.O_RDONLY)

        def _release(self) -> None:
            os.close(self._context.lock_file_fd)
            self._context.lock_file_fd = None

    filelock.FileLock = Nothing  # type: ignore[misc]
    start.wait()  # type: ignore[attr-defined]
    try:
        with Downloader(Cache(Path(folder))) as downloader:
            path = downloader.get(wanted(f"{url}/f"))
        results.put(hashlib.sha256(path.read_bytes()).hexdigest())  # type: ignore[attr-defined]
    except Exception as error:  # noqa: BLE001
        results.put(repr(error))  # type: ignore[attr-defined]


def test_four_processes_race_with_locks_that_do_nothing(cache: Cache) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    with serving({"/f": CONTENT}, {"/f": [cut(3_000_000), cut(1_000_000), status(500), cut(7_000_000)]}) as server:
        processes = [context.Process(target=_race, args=(str(cache.root), server.url, start, results)) for _ in range(4)]
        for process in processes:
            process.start()
        start.set()
        found = [results.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(30)
    assert found == [SHA256] * 4
    nothing_wrong_is_here(cache)


def test_one_download_where_locks_work(cache: Cache) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(_: int) -> bytes:
        with Downloader(Cache(cache.root)) as downloader:
            return downloader.get(wanted(f"{server.url}/f")).read_bytes()

    with serving({"/f": CONTENT}) as server, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [CONTENT] * 4
    assert len(server.asked) == 1
