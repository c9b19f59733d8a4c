"""R4, R5: checkpoints in a store that has no rename. fsspec's own ``memory://``; a real server: tests/e2e/test_store_server.py."""

import json
from collections.abc import Callable
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
from zoo.hub.export import export_run
from zoo.parallel.sharding import Piece
from zoo.settings_checks import check_store
from zoo.training.checkpoint import Checkpointer
from zoo.training.published import find_checkpoint
from zoo.training.remote import Remote
from zoo.training.resume import accept_resume
from zoo.training.store import Store, StoreError, run_files

URL = "memory://bucket/x"
MEMORY = MemoryFileSystem.store


pytestmark = pytest.mark.usefixtures("empty_store")


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


ROW = '{"step": 1, "time": 0.25, "train/loss": 2.5}\n'


@pytest.mark.parametrize(
    ("theirs", "row", "message"),
    [
        (["seed=1"], "", "seed is 1 there, 0 here"),
        (["model/encoder=mlp_tiny"], ROW.replace("0.25", "0.26"), "model.encoder"),
        (["init=other"], "", "init is other there, None here"),
        ([], ROW.replace("0.25", "0.26"), "its log begins with another row"),
        (["trainer.max_steps=9", "data.workers=2"], "", None),
        ([], ROW, None),
        (["optimizer.lr=0.5"], ROW, None),  # changed since, as allowed
    ],
)
def test_a_place_that_holds_another_run_is_refused(tmp_path: Path, theirs: list[str], row: str, message: str | None) -> None:
    """R4, R22: the run would go on from the other one's tensors, and then remove its checkpoints. Its own, copied, are accepted."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "checkpoints" / "step_00000005").mkdir(parents=True)
    there.mkdir()
    compose().save(here / "config.yaml")
    (here / "log.jsonl").write_text(ROW)
    compose(f"trainer.checkpoint_to={URL}", *theirs).save(there / "config.yaml")
    (there / "log.jsonl").write_text(row)
    save(writer(there), 5)
    before = (here / "config.yaml").read_text()
    after = compose(f"trainer.checkpoint_to={URL}")
    if message is None:
        accept_resume(after, here)
        assert RunConfig.load(here / "config.yaml") == after
        return
    with pytest.raises(ConfigError, match=rf"(?s)trainer.checkpoint_to: memory://bucket/x holds checkpoints of another run \({message}.*resume={here}"):
        accept_resume(after, here)
    assert (here / "config.yaml").read_text() == before
    assert Store(URL).steps() == [5]


def test_checkpoints_without_a_config_are_of_no_known_run(tmp_path: Path) -> None:
    compose().save(tmp_path / "config.yaml")
    save(writer(tmp_path / "there"), 5)
    with pytest.raises(ConfigError, match=r"holds checkpoints of another run \(without a config.yaml"):
        accept_resume(compose(f"trainer.checkpoint_to={URL}"), tmp_path)


def test_messages_show_the_place_that_was_given(tmp_path: Path) -> None:
    """No folder that is gone with the command, and no way out that does not exist."""
    begun = compose(f"trainer.checkpoint_to={URL}", "schedule=constant")
    begun.save(tmp_path / "config.yaml")
    save(writer(tmp_path), 5)

    def again(**trainer: Any) -> RunConfig:
        tree = begun.to_dict()
        return RunConfig.from_dict({**tree, "resume": URL, "trainer": {**tree["trainer"], **trainer}})

    with run_files(URL) as files:
        with pytest.raises(CheckpointError, match=r"^memory://bucket/x: no checkpoint of step 9; there are 5"):
            export_run(files, tmp_path / "bundle", checkpoint="9", store=Store(URL))
        with pytest.raises(CheckpointError, match=r"^memory://bucket/x: keeps no processor/.*\n.*resume=memory://bucket/x$"):
            export_run(files, tmp_path / "bundle", store=Store(URL))
        with pytest.raises(ConfigError, match=r"zoo export memory://bucket/x --to FOLDER, then init=FOLDER starts from its weights"):
            accept_resume(again(freeze=["encoder"]), files)
        for change in ({"max_steps": 3}, {"checkpoint_to": "memory://bucket/y"}):
            with pytest.raises(ConfigError, match="memory://bucket/x") as error:
                accept_resume(again(**change), files)
            assert str(files.parent) not in str(error.value)
    with pytest.raises(CheckpointError, match=f"^{tmp_path}: no checkpoint of step 9"):
        find_checkpoint(tmp_path, "9")
    assert find_checkpoint(tmp_path).place == f"{URL}/step_00000005"
    assert (writer(tmp_path).where, Checkpointer(tmp_path, 1).where) == (URL, str(tmp_path))


def save_best(folder: Path, *best: int | None) -> None:
    """Steps 1, 2 ..., and which one was the best after each."""
    compose(f"trainer.checkpoint_to={URL}").save(folder / "config.yaml")
    target = writer(folder, len(best))
    for step, known in enumerate(best, 1):
        tensors = {part: {"a": torch.full((3,), float(step))} for part in ("model", "optimizer", "ema")}
        target.save(step, tensors, {"progress": {"best": {"step": known, "value": 1.0} if known else None}}, best=known)
    target.wait()


@pytest.mark.parametrize(("best", "used"), [(1, 1), (3, 3), (None, 3), (9, 3)])
def test_one_model_comes_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int | None, used: int) -> None:
    """Which one is the best says the newest one's state."""
    save_best(tmp_path, best, best, best)
    sent: list[str] = []
    get_file = MemoryFileSystem.get_file
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda self, path, *rest, **more: (sent.append(path), get_file(self, path, *rest, **more)))
    assert find_checkpoint(tmp_path).tensors("ema")["a"][0] == used
    assert [path.rpartition("step_")[2] for path in sent if "state" not in path] == [f"0000000{used}/{name}.safetensors" for name in ("model", "ema")]


def test_the_newest_is_damaged_and_the_best_is_not_lost(tmp_path: Path) -> None:
    """R5."""
    save_best(tmp_path, 1, 1, 3)
    MEMORY["/bucket/x/step_00000003/model.safetensors"].truncate(9)
    assert find_checkpoint(tmp_path).step == 1
    assert find_checkpoint(tmp_path, "last").step == 2
    MEMORY["/bucket/x/step_00000003/state.json"].truncate(9)
    assert find_checkpoint(tmp_path).step == 1


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
    with pytest.raises(ConfigError, match=r"(?s)s3x:// is not known.*did you mean s3://"):
        check_store(compose("trainer.checkpoint_to=s3x://bucket/x"))
