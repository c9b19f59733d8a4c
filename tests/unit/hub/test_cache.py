"""The cache believes what it checked, for as long as it has not changed."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from zoo.errors import CheckpointError
from zoo.hub import cache as module
from zoo.hub.cache import SOURCE, Cache, sha256_of, write_source


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache")
    made.blobs.mkdir(parents=True)
    return made


def added(cache: Cache, content: bytes) -> str:
    fresh = cache.claim("0" * 64)
    fresh.write_bytes(content)
    return cache.add(fresh, sha256_of(fresh)).name


def model(cache: Cache, name: str, content: bytes) -> Path:
    sha256 = added(cache, content)
    folder = cache.model(name, sha256)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(content)
    write_source(folder, name=name, source="somewhere", files={"weights": sha256})
    return folder


def test_bytes_are_read_once_until_something_changes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = added(cache, b"content")
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(module, "sha256_of", counted)
    for _ in range(3):
        assert cache.blob(sha256) is not None
    assert read == []
    os.utime(cache.blobs / sha256, ns=(1, 1))
    assert cache.blob(sha256) is not None
    assert cache.blob(sha256) is not None
    assert len(read) == 1
    (cache.blobs / f"{sha256}.seen").write_text("{dam")
    assert cache.blob(sha256) is not None
    assert len(read) == 2
    (cache.blobs / sha256).write_bytes(b"changed")
    assert cache.blob(sha256) is None
    assert not (cache.blobs / sha256).exists()


def test_a_changed_model_is_named(cache: Cache) -> None:
    folder = model(cache, "m", b"content")
    cache.check_model(folder)
    (folder / "weights").write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=r"weights: has changed"):
        cache.check_model(folder)
    (folder / "weights").unlink()
    with pytest.raises(CheckpointError, match=r"weights: missing"):
        cache.check_model(folder)


def test_verify_removes_what_is_damaged(cache: Cache) -> None:
    fine, damaged = model(cache, "fine", b"one"), model(cache, "damaged", b"two")
    (damaged / "weights").write_bytes(b"2")
    blob = cache.blobs / added(cache, b"three")
    blob.write_bytes(b"3")
    right, wrong = cache.verify()
    assert fine in right
    assert len(wrong) == 2
    assert fine.is_dir()
    assert not damaged.exists()
    assert not blob.exists()


def test_prune(cache: Cache) -> None:
    kept, gone = model(cache, "kept", b"one"), model(cache, "gone", b"two" * 100)
    unused = cache.blobs / added(cache, b"three")
    mine = cache.claim("1" * 64)
    mine.write_bytes(b"of a download that goes on")
    left = cache.blobs / f"{'2' * 64}.{mine.name.split('.')[1].split('-')[0]}-999999999-00000000.partial"
    left.write_bytes(b"of a process that is gone")
    files, size = cache.prune(["gone"])
    assert files == 3
    assert size >= 300 + 300 + 5
    assert kept.is_dir()
    assert not gone.exists()
    assert not unused.exists()
    assert mine.exists()
    assert not left.exists()
    assert len(cache.all_blobs()) == 1


def _claim_and_die(root: str, checksum: str) -> None:
    own = Cache(Path(root)).claim(checksum)
    own.write_bytes(b"begun")
    os._exit(9)


def test_what_a_killed_process_left_is_gone_on_with(cache: Cache) -> None:
    checksum = "3" * 64
    process = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(str(cache.root), checksum))
    process.start()
    process.join(30)
    claimed = cache.claim(checksum)
    assert claimed.read_bytes() == b"begun"
    assert not cache.claim(checksum).exists()  # it has an owner now: the next one begins anew
    cache.release(claimed)
    assert cache.claim(checksum).read_bytes() == b"begun"


def test_whether_somebody_is_at_it(cache: Cache) -> None:
    checksum = "4" * 64
    assert not cache.growing(checksum, 10)
    own = cache.claim(checksum)
    own.write_bytes(b"x")
    assert cache.growing(checksum, 10)
    os.utime(own, (time.time() - 60,) * 2)
    assert not cache.growing(checksum, 10)


@pytest.mark.parametrize("damage", ["", "[]", '{"name": 1}', json.dumps({"name": "m", "source": "s", "files": [], "written": {}, "seen": {}})])
def test_a_damaged_record_is_told(cache: Cache, damage: str) -> None:
    folder = model(cache, "m", b"content")
    (folder / SOURCE).write_text(damage)
    with pytest.raises(CheckpointError, match="damaged"):
        cache.entries()
