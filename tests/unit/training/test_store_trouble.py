"""R4, R5: processes that meet in a store at an awkward moment, lines that die, and what the messages then say."""

import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from tests.unit.training.test_store import MEMORY, URL, names, save, writer
from zoo.errors import CheckpointError
from zoo.training import checkpoint
from zoo.training.checkpoint import Checkpointer
from zoo.training.remote import FETCHED, FETCHING, Remote
from zoo.training.store import Store, StoreError

pytestmark = pytest.mark.usefixtures("empty_store")


# --- reading ------------------------------------------------------------------------------------------------------------------------


class Strict(MemoryFileSystem):
    """As SFTP's: options that it does not know go to a client, which refuses them. Keeps listings, as FTP's and S3's do, whatever is written."""

    protocol = "strict"

    def __init__(self, **options: Any) -> None:
        if options:
            raise TypeError(f"connect() got an unexpected keyword argument {next(iter(options))!r}")
        super().__init__()
        self.kept: dict[str, Any] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("strict://")))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        path = self._strip_protocol(path)
        if path not in self.kept:
            self.kept[path] = super().ls(path, detail=True)
        return self.kept[path] if detail else [entry["name"] for entry in self.kept[path]]

    def info(self, path: str, **options: Any) -> Any:
        path = self._strip_protocol(path)
        for entry in self.ls(self._parent(path)):
            if entry["name"] == path:
                return entry
        raise FileNotFoundError(path)

    def rmdir(self, path: str) -> None:
        self.kept = {}
        super().rmdir(path)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.kept = {}


def test_a_client_that_takes_no_options_and_keeps_listings(tmp_path: Path) -> None:
    fsspec.register_implementation("strict", Strict, clobber=True)
    pair = [
        Checkpointer(tmp_path / "checkpoints", 1, rank=rank, writers=2, timeout=10, remote=Remote(Store("strict://bucket/x"), tmp_path, "one"))
        for rank in range(2)
    ]
    for step in (1, 2, 2):
        for one in pair:
            one.save(step, {"model": {"a": torch.full((2,), float(step))}}, {"progress": {"best": None}}, best=None)
        for one in pair:
            one.wait()
    assert Store("strict://bucket/x").steps() == [2]
    assert pair[0].newest()[0].step == 2


@pytest.mark.parametrize("call", ["steps", "clean", "newest"])
def test_a_line_that_dies_when_a_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """R5: fsspec's ``exists`` says no whatever went wrong. Nothing may be taken for incomplete, and removed, because of that."""
    target = writer(tmp_path, 3)
    save(target, 1, 2)
    info = MemoryFileSystem.info

    def dead(self: Any, path: str, **options: Any) -> Any:
        if path.endswith("complete.json"):
            raise ConnectionResetError("the line is dead")
        return info(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "info", dead)
        with pytest.raises(StoreError, match="ConnectionResetError: the line is dead"):
            getattr(target if call == "newest" else target.remote.store, call)()
    assert Store(URL).steps() == [1, 2]


def test_one_process_downloads_and_another_comes_when_it_has_just_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the other's look for the result and its own begin."""
    save(writer(tmp_path), 1)
    fetched: list[int] = []
    fetch, mkdir, main = Store.fetch, Path.mkdir, threading.get_ident()
    monkeypatch.setattr(Store, "fetch", lambda self, *arguments: (fetched.append(threading.get_ident()), fetch(self, *arguments)))
    begun = False

    def slow(self: Path, *arguments: Any, **options: Any) -> None:
        nonlocal begun
        if self.name.startswith(FETCHING) and threading.get_ident() == main and not begun:
            begun = True
            other = threading.Thread(target=Remote(Store(URL), tmp_path, "one").open, args=(1,))
            other.start()
            other.join()
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", slow)
    found = Remote(Store(URL), tmp_path, "one").open(1)
    assert begun
    assert found.tensors("model")["a"][0] == 1
    assert len(fetched) == 1
    assert main not in fetched
    assert [path.name[: len(FETCHED)] for path in (tmp_path / "checkpoints").iterdir()] == [FETCHED]


def test_a_download_that_does_not_end_is_no_damaged_checkpoint(tmp_path: Path) -> None:
    """R5: the run's own timeout counts, and an older checkpoint is not gone on from."""
    target = writer(tmp_path, timeout=0.2)
    save(target, 1, 2)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"{FETCHING}step_00000002-one-all").mkdir()  # another process is at it, or was
    with pytest.raises(StoreError, match=r"memory://bucket/x/step_00000002: was not downloaded within 0 s"):
        target.newest()


# --- writing ------------------------------------------------------------------------------------------------------------------------


def test_what_fails_behind_the_marker_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes of the other writers stay where they are."""
    removed = MemoryFileSystem.rm_file

    def fail(self: Any, path: str) -> None:
        if "done-" in path:
            raise PermissionError("may not remove")
        removed(self, path)

    monkeypatch.setattr(MemoryFileSystem, "rm_file", fail)
    pair = [writer(tmp_path, rank=rank, writers=2, timeout=10) for rank in range(2)]
    for one in pair:
        one.save(1, {"model": {"a": torch.ones(2)}}, {"progress": {"best": None}}, best=None)
    for one in pair:
        one.wait()
    assert Store(URL).steps() == [1]
    assert "done-1.one-1" in names(1)


@pytest.mark.parametrize("where", ["here", "store"])
def test_one_that_is_complete_while_older_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """It is not told as lost, and the next failure names it as the last one."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise PermissionError("may not remove")

    target = writer(tmp_path, 1) if where == "store" else Checkpointer(tmp_path / "checkpoints", 1)
    save(target, 1)
    with monkeypatch.context() as patch:
        patch.setattr(*(MemoryFileSystem, "rm") if where == "store" else (checkpoint, "discard"), fail)
        with pytest.raises(
            CheckpointError, match=r"(?s)step_00000002 is complete, but older ones could not be removed .*may not remove.*zoo train resume="
        ) as error:
            save(target, 2)
        assert "could not be written" not in str(error.value)
        assert isinstance(error.value.__cause__, PermissionError)
        assert target.newest()[0].step == 2
    with monkeypatch.context() as patch:
        patch.setattr(*(MemoryFileSystem, "open") if where == "store" else (checkpoint, "write_tensors"), fail)
        with pytest.raises(CheckpointError, match=r"(?s)could not be written.*the last complete one is step_00000002"):
            save(target, 3)


def test_the_last_one_is_known_right_after_its_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = writer(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "retire", lambda *_: 1 / 0)
        with pytest.raises(CheckpointError, match="step_00000001 is complete"):
            save(target, 1)
    monkeypatch.setattr(MemoryFileSystem, "open", lambda *_, **__: 1 / 0)
    with pytest.raises(CheckpointError, match=r"(?s)could not be written.*the last complete one is step_00000001"):
        save(target, 2)


def test_a_writer_does_not_take_its_own_part_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 has sent its part of step 1; rank 0 never came."""
    second = writer(tmp_path, rank=1, writers=2)
    save(second, 1)
    assert Store(URL).steps() == []
    monkeypatch.setattr(MemoryFileSystem, "open", lambda *_, **__: 1 / 0)
    with pytest.raises(CheckpointError) as error:
        save(second, 2)
    assert "step_00000001" not in str(error.value)
    assert "those before it are as they were" in str(error.value)


@pytest.mark.parametrize("where", ["here", "store"])
def test_the_wait_for_the_others_is_one_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The first one that is missing is named when the time of all has passed."""
    place: dict[str, Any] = {"rank": 0, "writers": 3, "timeout": 0.3}
    target = writer(tmp_path, **place) if where == "store" else Checkpointer(tmp_path / "checkpoints", 2, **place)
    with pytest.raises(CheckpointError, match="rank 1 has not"):
        save(target, 1)
    assert not any("complete.json" in path for path in MEMORY)
