"""The cache believes what it checked, for as long as it has not changed."""

import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from zoo.cli.main import main
from zoo.errors import CheckpointError
from zoo.hub import cache as module
from zoo.hub.cache import RECENT, Cache
from zoo.hub.made import laid_out
from zoo.hub.owners import ABANDONED
from zoo.hub.source import SOURCE, sha256_of, write_source


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


def test_a_file_that_comes_while_one_looks_for_it_stays(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process adds it between the look that finds nothing and what is done about that."""
    sha256 = hashlib.sha256(b"content").hexdigest()

    def too_early(path: Path) -> list[int]:
        monkeypatch.undo()
        added(cache, b"content")
        raise FileNotFoundError(path)

    monkeypatch.setattr(module, "fingerprint", too_early)
    assert cache.blob(sha256) is None
    assert cache.blob(sha256) == cache.blobs / sha256


def test_a_file_that_replaces_a_damaged_one_stays(cache: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process puts the right one in its place while the damaged one is read."""
    sha256 = added(cache, b"content")
    (cache.blobs / sha256).write_bytes(b"damaged")

    def replaced(path: Path) -> str:
        monkeypatch.undo()
        found = sha256_of(path)
        added(cache, b"content")
        return found

    monkeypatch.setattr(module, "sha256_of", replaced)
    assert cache.blob(sha256) is None
    assert capsys.readouterr().err == ""
    assert cache.blob(sha256) == cache.blobs / sha256
    assert list(cache.blobs.glob("*.wrong")) == []


def test_a_file_that_is_here_is_not_replaced_by_the_same(cache: Cache) -> None:
    """Others may be linking to it: Linux refuses to link to a file at the moment that another takes its name."""
    before = (cache.blobs / added(cache, b"content")).stat().st_ino
    assert (cache.blobs / added(cache, b"content")).stat().st_ino == before
    assert list(cache.blobs.glob("*.partial")) == []


def test_a_link_that_meets_a_replaced_file_becomes_a_copy(cache: Cache, tmp_path: Path) -> None:
    blob = cache.blobs / added(cache, b"content")

    def link(source: Path, target: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(source), None, str(target))

    laid_out({"a/weights": blob}, tmp_path / "model", link)
    assert (tmp_path / "model" / "a" / "weights").read_bytes() == b"content"
    blob.unlink()
    with pytest.raises(CheckpointError, match="gone from the cache"):
        laid_out({"b": blob}, tmp_path / "model", link)


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
    unused, fresh = cache.blobs / added(cache, b"three"), cache.blobs / added(cache, b"of a model that is about to be made")
    os.utime(unused, (time.time() - 2 * RECENT,) * 2)
    killed, working = cache.blobs / "tmpkilled", cache.models / ".fresh-working"
    for folder, old in ((killed, 2 * ABANDONED), (working, 0.0)):
        folder.mkdir()
        (folder / "file").write_bytes(b"unpacked")
        os.utime(folder, (time.time() - old,) * 2)
    mine = cache.claim("1" * 64)
    mine.write_bytes(b"of a download that goes on")
    left = cache.blobs / f"{'2' * 64}.{mine.name.split('.')[1].split('-')[0]}-999999999-00000000.partial"
    left.write_bytes(b"of a process that is gone")
    files, size, spared = cache.prune(["gone"])
    assert (files, spared) == (4, 1)
    assert size >= 300 + 300 + 5
    assert kept.is_dir()
    assert not gone.exists()
    assert not unused.exists()
    assert mine.exists()
    assert not left.exists()
    assert not killed.exists()
    assert working.is_dir()
    assert fresh.exists()
    assert len(cache.all_blobs()) == 2
    assert [entry.name for entry in cache.entries()] == ["kept"]


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
def test_a_damaged_record_spoils_no_other_model(cache: Cache, damage: str) -> None:
    folder, other = model(cache, "m", b"content"), model(cache, "n", b"other")
    (folder / SOURCE).write_text(damage)
    assert [entry.name for entry in cache.entries()] == ["n"]
    assert [place for place, _ in cache.damaged()] == [folder]
    with pytest.raises(CheckpointError, match="damaged"):
        cache.check_model(folder)
    right, wrong = cache.verify()
    assert other in right
    assert len(wrong) == 1
    assert not folder.exists()


def _of_another_container(root: str, checksum: str, ready: object, go_on: object) -> None:
    module.host.cache_clear()
    own = Cache(Path(root)).claim(checksum)
    with own.open("wb") as file:
        file.write(b"right, ")
        file.flush()
        ready.set()  # type: ignore[attr-defined]
        go_on.wait(30)  # type: ignore[attr-defined]
        file.write(b"WRONG")


def test_whoever_seems_gone_and_writes_on_spoils_nothing(cache: Cache) -> None:
    """A process of another container, taken for dead: what it writes later goes into its own file."""
    checksum, context = "5" * 64, multiprocessing.get_context("spawn")
    ready, go_on = context.Event(), context.Event()
    process = context.Process(target=_of_another_container, args=(str(cache.root), checksum, ready, go_on))
    process.start()
    assert ready.wait(30)
    (theirs,) = cache.blobs.glob(f"{checksum}.*.partial")
    foreign = theirs.rename(theirs.with_name(f"{checksum}.{'f' * 8}-{process.pid}-00000000.partial"))
    os.utime(foreign, (time.time() - 2 * ABANDONED,) * 2)
    mine = cache.claim(checksum)
    go_on.set()
    process.join(30)
    assert mine.read_bytes() == b"right, "


def test_a_copy_that_may_not_be_written_to(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied, so that inodes are others; only reading again is lost."""
    folder = model(cache, "m", b"content")
    sha256 = added(cache, b"content")
    for path in (folder / "weights", cache.blobs / sha256):
        os.utime(path, (1, 1))

    def refuse(*arguments: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("zoo.hub.cache.write_whole", refuse)
    cache.check_model(folder)
    assert cache.blob(sha256) == cache.blobs / sha256


def test_what_no_model_is_made_of_is_dropped_and_the_rest_is_not(cache: Cache) -> None:
    folder, refused = model(cache, "m", b"content"), added(cache, b"refused")
    cache.note_source(refused, "somewhere")
    used = added(cache, b"content")
    cache.drop([refused, used])
    assert cache.all_blobs() == [cache.blobs / used]
    assert list(cache.blobs.glob(f"{refused}*")) == []
    cache.check_model(folder)


@pytest.mark.parametrize("file", ["cache", "cache/blobs", "cache/models", "."])
def test_a_file_in_the_caches_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str) -> None:
    """The same words from every command, and no `nothing is here yet` of a cache that cannot be."""
    place = tmp_path / "above" / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "above" / "cache"))
    for words in (["cache"], ["cache", "verify"], ["cache", "prune"], ["pull", "minilm_l6"], ["predict", "minilm_l6", "--text", "x"]):
        assert main(words) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert "no cache can be made there" in told.err
        assert "ZOO_CACHE=FOLDER" in told.err
    assert main(["pull", "digits_cnn"]) == 0  # comes with zoo, and needs no cache


def test_prune_takes_relative_paths_and_tells_what_it_spared(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a folder's checkpoint became is named by the folder's whole path."""
    monkeypatch.setenv("ZOO_CACHE", str(cache.root))
    monkeypatch.chdir(tmp_path)
    for word in ("./bertbase", "bertbase"):
        folder = model(cache, str(tmp_path / "bertbase"), b"one")
        assert main(["cache", "prune", word]) == 0
        assert not folder.exists()
    capsys.readouterr()
    added(cache, b"recent")
    assert main(["cache", "prune"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("0 removed")
    assert "1 more" in told.err
    assert "10 minutes" in told.err
    assert main(["cache", "prune", "./nothing"]) == 2
    assert "way out: `zoo cache`" in capsys.readouterr().err
