"""R4, R5: checkpoints in a store that has no rename. fsspec's own ``memory://``; a real server: tests/e2e/test_store_server.py."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from tests.tiny import make_trainer
from tests.unit.training.test_resume import everything, stop_at
from zoo.compose import Composer
from zoo.config import RunConfig
from zoo.errors import CheckpointError, ConfigError
from zoo.parallel.sharding import Piece
from zoo.settings_checks import check_store
from zoo.training.checkpoint import Checkpointer, find_checkpoint
from zoo.training.remote import Remote
from zoo.training.resume import accept_resume
from zoo.training.store import Store, StoreError, run_files

URL = "memory://bucket/x"
MEMORY = MemoryFileSystem.store


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    MEMORY.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield
    MEMORY.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def writer(folder: Path, keep_last: int = 2, session: str = "one", **place: Any) -> Checkpointer:
    folder.mkdir(parents=True, exist_ok=True)
    return Checkpointer(folder / "checkpoints", keep_last, remote=Remote(Store(URL), folder, session), **place)


def save(target: Checkpointer, *steps: int, best: int | None = None) -> None:
    for step in steps:
        target.save(step, {"model": {"a": torch.full((3,), float(step))}}, {"progress": {"best": None}}, best=best)
    target.wait()


def names(step: int) -> list[str]:
    return sorted(path.removeprefix(f"/bucket/x/step_{step:08d}/") for path in MEMORY if f"step_{step:08d}" in path)


def test_the_newest_k_and_the_best_are_kept(tmp_path: Path) -> None:
    target = writer(tmp_path)
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / "processor" / "text").mkdir(parents=True)
    (tmp_path / "processor" / "text" / "tokenizer.json").write_text("{}")
    save(target, 10, 20, 30, 40, best=10)
    assert Store(URL).steps() == [10, 30, 40]
    assert sorted({path.split("/")[3] for path in MEMORY}) == ["step_00000010", "step_00000030", "step_00000040"]
    assert names(40) == ["complete.json", "model.safetensors", "run/config.yaml", "run/processor/text/tokenizer.json", "state.json"]
    found, messages = target.newest()
    assert found.tensors("model")["a"][0] == 40
    assert messages == []
    target.release()
    assert list((tmp_path / "checkpoints").iterdir()) == []
    with run_files(URL) as files:
        assert (files / "processor" / "text" / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "complete.json", "run/config.yaml"])
@pytest.mark.parametrize(
    "damage",
    [lambda path: MEMORY[path].truncate(MEMORY[path].size // 2), lambda path: MEMORY[path].truncate(0), MEMORY.pop],
    ids=["half", "empty", "gone"],
)
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, damage: Callable[[str], Any]) -> None:
    """R5: truncated, emptied, missing."""
    target = writer(tmp_path, 3)
    (tmp_path / "config.yaml").write_text("name: x\n")
    save(target, 1, 2)
    damage(f"/bucket/x/step_00000002/{name}")
    found, messages = target.newest()
    gone = name not in ("run/config.yaml",) and f"/bucket/x/step_00000002/{name}" not in MEMORY
    if name == "run/config.yaml":  # not a tensor: what goes on from its own directory does not read it
        assert (found.step, messages) == (2, [])
        with run_files(URL) as files:
            assert (files / "config.yaml").read_text() == "name: x\n"
        return
    assert found.step == 1
    assert found.tensors("model")["a"][0] == 1
    if gone and name == "complete.json":  # without a marker there is no checkpoint
        assert messages == []
        return
    assert len(messages) == 1
    assert messages[0].startswith("checkpoint step_00000002 is damaged and not used: memory://bucket/x/step_00000002")
    assert messages[0].endswith("going on from step_00000001")


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    """R5."""
    target = writer(tmp_path)
    save(target, 1)
    file = MEMORY["/bucket/x/step_00000001/model.safetensors"]
    file.seek(-1, 2)
    file.write(b"x")
    found, messages = target.newest()
    assert found is None
    assert "contents have changed" in messages[0]


def test_a_marker_cannot_point_outside(tmp_path: Path) -> None:
    """R1: neither in the store nor on this disk."""
    target = writer(tmp_path)
    save(target, 1)
    marker = MEMORY["/bucket/x/step_00000001/complete.json"]
    for name in ("../../secret", "run/../../secret", "/etc/passwd", "sub/model.safetensors"):
        content = json.loads(marker.getvalue())
        content["files"][name] = content["files"]["state.json"]
        fsspec.filesystem("memory").pipe_file("/bucket/x/step_00000001/complete.json", json.dumps(content).encode())
        found, messages = target.newest()
        assert found is None, name
        assert f"{name}: missing" in messages[0]


@pytest.mark.parametrize("call", ["open", "pipe_file", "info", "makedirs"])
def test_a_store_that_fails_ends_the_run_and_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """R5: as a full disk does."""
    target = writer(tmp_path)
    save(target, 1)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise ConnectionError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, call, fail)
        with pytest.raises(CheckpointError, match=r"(?s)memory://bucket/x.*the line is dead.*last complete one is step_00000001.*zoo train resume="):
            save(target, 2)
    found, messages = writer(tmp_path, session="two").newest()
    assert (found.step, messages) == (1, [])
    target.clean()
    assert Store(URL).steps() == [1]
    assert names(2) == []


def test_a_store_that_loses_bytes_is_noticed_before_the_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = MemoryFileSystem.info
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path, **options: info(self, path, **options) | {"size": 5})
    with pytest.raises(CheckpointError, match="the store has 5 bytes"):
        save(writer(tmp_path), 1)
    assert Store(URL).steps() == []


def test_a_store_that_does_not_answer_is_not_a_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: a run must not go on from an older one because the line was dead for a second."""
    target = writer(tmp_path)
    save(target, 1, 2)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise TimeoutError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "get_file", fail)
    with pytest.raises(StoreError, match=r"memory://bucket/x: cannot be read .TimeoutError: no answer"):
        target.newest()


def test_writers_meet_in_the_store(tmp_path: Path) -> None:
    """Two processes' parts, and what a killed start left of the same step is not taken for theirs."""
    stale = json.dumps({"model.00001-of-00002.safetensors": [1, "0"]}).encode()
    fsspec.filesystem("memory").pipe_file("/bucket/x/step_00000001/done-1.other-1", stale)
    pair = [writer(tmp_path, rank=rank, writers=2, timeout=10) for rank in range(2)]
    for rank, one in enumerate(pair):
        piece = Piece((4,), (2,), (2 * rank,), 1, True)
        one.save(1, {"model": {"a": torch.full((2,), float(rank))}}, {"progress": {"best": None}}, best=None, pieces={"a": piece})
    for one in pair:
        one.wait()
    assert pair[0].newest()[0].tensors("model")["a"].tolist() == [0, 0, 1, 1]
    assert "done-1.one-1" not in names(1)


def test_a_writer_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [writer(tmp_path, rank=rank, writers=2, timeout=10) for rank in range(2)]
    opened = MemoryFileSystem.open
    monkeypatch.setattr(MemoryFileSystem, "open", lambda self, path, *rest, **more: 1 / 0 if "00001-of" in path else opened(self, path, *rest, **more))
    for one in pair:
        one.save(1, {"model": {"a": torch.ones(2)}}, {}, best=None)
    with pytest.raises(CheckpointError, match="division"):
        pair[1].wait()
    with pytest.raises(CheckpointError, match="rank 1: ZeroDivisionError"):
        pair[0].wait()


@pytest.mark.parametrize("step", [3, 7, 10])
def test_stopped_and_gone_on_with_from_the_store(tmp_path: Path, step: int) -> None:
    """R4: bit-equal to an uninterrupted run with checkpoints of its own."""
    whole = make_trainer(tmp_path / "whole")
    whole.fit()
    first = make_trainer(tmp_path / "first")
    first.checkpointer = writer(tmp_path / "first")
    stop_at(first, step)
    first.fit()
    second = make_trainer(tmp_path / "second")
    second.checkpointer = writer(tmp_path / "second", session="two")
    checkpoint, messages = second.checkpointer.newest()
    assert (checkpoint.step, messages) == (step, [])
    second.load(checkpoint)
    second.checkpointer.release()
    second.fit()
    wanted, found = everything(whole), everything(second)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_a_run_without_a_store_does_not_touch_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: 1 / 0)
    make_trainer(tmp_path).fit()
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "step_00000012"


def compose(*overrides: str) -> RunConfig:
    with Composer() as composer:
        return composer.run_config(composer.compose(list(overrides)), list(overrides))


def test_find_checkpoint_looks_where_the_config_says(tmp_path: Path) -> None:
    compose(f"trainer.checkpoint_to={URL}").save(tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        find_checkpoint(tmp_path)
    save(writer(tmp_path, 3), 1, 2, 3)
    assert find_checkpoint(tmp_path, "2").tensors("model")["a"][0] == 2
    assert find_checkpoint(tmp_path, "last").step == 3
    with pytest.raises(CheckpointError, match="no checkpoint of step 9; there are 1, 2, 3"):
        find_checkpoint(tmp_path, "9")


def test_a_place_that_is_taken_is_refused_and_another_that_is_empty_too(tmp_path: Path) -> None:
    """A second run never writes over the first; a run that goes on does not begin anew by a slip of the pen."""
    before = compose(f"trainer.checkpoint_to={URL}")
    before.save(tmp_path / "config.yaml")
    Store(URL).check_new()
    save(writer(tmp_path), 5)
    with pytest.raises(ConfigError, match=r"(?s)up to step 5.*resume=memory://bucket/x"):
        Store(URL).check_new()
    with pytest.raises(ConfigError, match=r"memory://bucket/y holds no checkpoint of this run; they are in memory://bucket/x"):
        accept_resume(compose("trainer.checkpoint_to=memory://bucket/y"), tmp_path)
    accept_resume(before, tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/tmp/x", r"no URL of a folder.*\n.*s3://"),
        ("s3://", "no URL of a folder"),
        ("simplecache::s3://bucket/x", "a chain of protocols"),
        ("ftp://me:secret@host/x", r"ftp://...: a password would be saved.*\n.*FSSPEC_FTP_USERNAME and _PASSWORD"),
    ],
)
def test_addresses_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)trainer.checkpoint_to: .*{message}") as error:
        compose(f"trainer.checkpoint_to={url}")
    assert "secret" not in str(error.value).partition("from:")[0]


def test_a_protocol_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import known_implementations

    monkeypatch.setitem(known_implementations, "far", {"class": "not_installed.Far", "err": "Install farfs to access far"})
    with pytest.raises(ConfigError, match=r"a package is missing for far:// \(Install farfs"):
        check_store(compose("trainer.checkpoint_to=far://bucket/x"))
    with pytest.raises(ConfigError, match=r"(?s)s3x:// is not known.*'s3'"):
        check_store(compose("trainer.checkpoint_to=s3x://bucket/x"))
