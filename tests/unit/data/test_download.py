"""Downloads from a server that misbehaves, on the loopback."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.published import fashion
from zoo.data.datasets import fashion_mnist
from zoo.data.download import fetch
from zoo.errors import DataError
from zoo.registry import DATASETS

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Faulty(BaseHTTPRequestHandler):
    """The first part of the path says what goes wrong: good, missing, wrong, broken (breaks off, can go on), stubborn (breaks off, cannot), endless, error."""

    content: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        _, fault, name = self.path.split("/", 2)
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.asked.append((self.path, self.headers["Range"] or ""))
        times = sum(path == self.path for path, _ in self.asked)
        if fault == "missing" or name not in self.content:
            return self.send_error(404)
        if fault == "error" or (fault == "busy" and times == 1):
            return self.send_error(503)
        content = b"x" * 100 if fault == "wrong" else self.content[name]
        resumed = fault == "broken" and start > 0
        self.send_response(206 if resumed else 200)
        body = content[start:] if resumed else content
        self.send_header("Content-Length", str(len(body) * (1000 if fault == "endless" else 1)))
        self.end_headers()
        if fault in ("broken", "stubborn") and times == 1:
            body = body[: len(body) // 2]
        try:
            for _ in range(1000 if fault == "endless" else 1):
                self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # the client has had enough
            pass
        self.close_connection = True
        return None

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Faulty.content, Faulty.asked = {"a.bin": CONTENT, "a.gz": gzip.compress(CONTENT)}, []
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize("fault", ["good", "broken", "stubborn", "busy"])
def test_what_can_be_mended_is(server: str, tmp_path: Path, fault: str) -> None:
    """R10: resumed where it broke off, or begun again."""
    fetch([f"{server}/{fault}/a.bin"], tmp_path / "new" / "a.bin", sha256=DIGEST, limit=len(CONTENT))
    assert (tmp_path / "new" / "a.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bin"]
    assert any(asked.startswith("bytes=") for _, asked in Faulty.asked) is (fault in ("broken", "stubborn"))


def test_addresses_are_tried_in_order(server: str, tmp_path: Path) -> None:
    """R10: until one gives the pinned content; a recompressed copy is the same data."""
    urls = [f"{server}/{fault}/a.gz" for fault in ("missing", "wrong", "good")]
    fetch(urls, tmp_path / "a.gz", sha256=DIGEST, limit=2_000_000)
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == CONTENT


@pytest.mark.parametrize(("fault", "said"), [("missing", "404"), ("wrong", "expected"), ("endless", "more than the"), ("error", "503")])
def test_what_cannot_leaves_nothing_behind(server: str, tmp_path: Path, fault: str, said: str) -> None:
    with pytest.raises(DataError, match=f"{fault}/a.bin.*{said}"):
        fetch([f"{server}/{fault}/a.bin"], tmp_path / "a.bin", sha256=DIGEST, limit=len(CONTENT))
    assert list(tmp_path.iterdir()) == []


def test_only_http_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only http"):
        fetch(["file:///etc/hostname"], tmp_path / "a", sha256=DIGEST, limit=10)


def test_fashion_mnist_is_downloaded_once(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fashion(tmp_path / "source", zipped=True)
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    Faulty.content = files
    monkeypatch.setattr(
        fashion_mnist, "FILES", {name.removesuffix(".gz"): hashlib.sha256(gzip.decompress(content)).hexdigest() for name, content in files.items()}
    )
    node = {"name": "fashion_mnist", "root": str(tmp_path / "data"), "sources": [f"{server}/missing", f"{server}/good/"], "validation": 5}

    def build() -> Any:
        return DATASETS.build(DATASETS.check_node(node, "data"), "data")

    assert len(build().open().splits["train"]) == 25
    asked = len(Faulty.asked)
    build().open()
    assert len(Faulty.asked) == asked == 8
    (tmp_path / "data" / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(DataError, match=r"(?s)lacks t10k-labels-idx1-ubyte; looked in .*data; not downloaded: offline.*put into .*fashion_mnist.*t10k-labels"):
        build().open()
    assert len(Faulty.asked) == asked  # R19: no socket
    monkeypatch.delenv("ZOO_OFFLINE")
    Faulty.content = {}
    with pytest.raises(DataError, match=r"(?s)t10k-labels.*404.*way out"):
        build().open()


@pytest.mark.parametrize(
    ("node", "files"),
    [
        ({"name": "movielens", "root": "ml100k"}, "u.data and u.item"),
        ({"name": "audio_folder", "root": "sample_sounds"}, ".flac"),
        ({"name": "table", "path": "tweets/tweets.csv", "text": "text", "target": "label"}, "the columns text and label"),
    ],
)
def test_who_lacks_a_set_of_the_presets_is_told_its_files_and_their_place(
    node: dict[str, Any], files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "sets"))
    key = "path" if "path" in node else "root"
    with pytest.raises(DataError) as raised:
        DATASETS.build(DATASETS.check_node({**node, key: str(tmp_path / "sets" / node[key])}, "data"), "data").open()
    assert files in str(raised.value)
    assert f"put into {tmp_path / 'sets' / node[key].split('/')[0]} " in str(raised.value)


def test_fashion_mnist_is_found_by_its_plain_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fashion(tmp_path / "fashion_mnist", zipped=True)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    found = DATASETS.build(DATASETS.check_node({"name": "fashion_mnist", "download": "never", "validation": 5}, "data"), "data").open()
    assert len(found.splits["train"]) == 25
