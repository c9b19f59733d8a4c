"""R5: whatever happens to a save, the checkpoints before it stay. R6: loading is strict."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from zoo.errors import CheckpointError
from zoo.parallel.sharding import Piece
from zoo.training import checkpoint as module
from zoo.training.checkpoint import Checkpointer, newest_checkpoint, open_checkpoint, step_folders
from zoo.training.tensors import load_strictly, read_pieces, read_tensors, write_tensors

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def save(writer: Checkpointer, *steps: int, best: int | None = None) -> None:
    for step in steps:
        writer.save(step, {"model": {"a": torch.full((3,), float(step))}}, {"progress": {"step": step}}, best=best)
    writer.wait()


def test_safetensors_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    tensors = {f"{dtype}".removeprefix("torch."): (torch.arange(12).reshape(3, 4) % 2).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "ä/ü": torch.ones(2)}
    size, sha256 = write_tensors(tmp_path / "ours", tensors)
    found = load_file(tmp_path / "ours")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert (size, sha256) == ((tmp_path / "ours").stat().st_size, module.file_digest(tmp_path / "ours"))
    save_file(tensors, tmp_path / "theirs")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(tmp_path / "theirs").items())


def test_the_newest_k_and_the_best_are_kept(tmp_path: Path) -> None:
    writer = Checkpointer(tmp_path, keep_last=2)
    save(writer, 10, 20, 30, 40, best=10)
    assert list(step_folders(tmp_path)) == [10, 30, 40]
    save(writer, 50, best=40)
    assert list(step_folders(tmp_path)) == [40, 50]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_saved_is_the_state_of_that_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step after a save may change the weights while they are being written."""
    go = threading.Event()
    write = module.write_tensors
    monkeypatch.setattr(module, "write_tensors", lambda *arguments: go.wait(10) and write(*arguments))
    writer, weights = Checkpointer(tmp_path, 2), torch.zeros(4)
    writer.save(1, {"model": {"a": weights}}, {}, best=None)
    weights.fill_(7)
    go.set()
    writer.wait()
    assert torch.equal(newest_checkpoint(tmp_path)[0].tensors("model")["a"], torch.zeros(4))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1]),
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"x"),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "state.json").write_text("{}"),
        lambda folder: (folder / "complete.json").unlink(),
        lambda folder: (folder / "complete.json").write_text("{"),
        lambda folder: (folder / "complete.json").write_text("[]"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    """R5: truncated, changed, emptied, missing."""
    save(Checkpointer(tmp_path, 3), 1, 2)
    damage(tmp_path / "step_00000002")
    found, messages = newest_checkpoint(tmp_path)
    assert found.step == 1
    assert len(messages) == 1
    assert messages[0].startswith("checkpoint step_00000002 is damaged and not used")
    assert messages[0].endswith("going on from step_00000001")
    assert found.tensors("model")["a"][0] == 1


def test_truncated_at_every_length(tmp_path: Path) -> None:
    """R5: a file that ends anywhere is never taken for whole."""
    save(Checkpointer(tmp_path, 3), 1)
    folder = tmp_path / "step_00000001"
    for file in folder.iterdir():
        data = file.read_bytes()
        for length in range(0, len(data), max(1, len(data) // 40)):
            file.write_bytes(data[:length])
            with pytest.raises(CheckpointError):
                open_checkpoint(folder)
        file.write_bytes(data)
    assert open_checkpoint(folder).step == 1


def test_a_damaged_one_is_replaced_when_the_run_comes_by_again(tmp_path: Path) -> None:
    writer = Checkpointer(tmp_path, 3)
    save(writer, 1, 2)
    (tmp_path / "step_00000002" / "complete.json").unlink()
    save(writer, 2)
    assert open_checkpoint(tmp_path / "step_00000002").step == 2


def test_a_full_disk_ends_the_run_and_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5: at any write. (Real limits: tests/e2e and tools/fault_matrix.py.)"""
    writer = Checkpointer(tmp_path, 2)
    save(writer, 1)
    for name in ("write_tensors", "write_text", "sync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, _full)
            with pytest.raises(CheckpointError, match=r"(?s)No space left.*the last complete one is step_00000001.*zoo train resume="):
                save(writer, 2)
        found, messages = newest_checkpoint(tmp_path)
        assert found.step == 1, name
        assert messages == []
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".new")] == []


def _full(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


def test_what_a_killed_save_left_is_cleaned_up(tmp_path: Path) -> None:
    writer = Checkpointer(tmp_path, 2)
    save(writer, 1)
    shutil.copytree(tmp_path / "step_00000001", tmp_path / ".new-step_00000002")
    shutil.copytree(tmp_path / "step_00000001", tmp_path / ".old-step_00000000")
    assert newest_checkpoint(tmp_path)[0].step == 1
    writer.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_marker_cannot_point_outside(tmp_path: Path) -> None:
    """R1."""
    save(Checkpointer(tmp_path, 2), 1)
    marker = tmp_path / "step_00000001" / "complete.json"
    content = json.loads(marker.read_text())
    content["files"]["../../secret"] = content["files"]["state.json"]
    marker.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="missing"):
        open_checkpoint(tmp_path / "step_00000001")


def test_a_header_whose_length_looks_like_a_pickle(tmp_path: Path) -> None:
    """Headers of 640, 896, 1152 ... bytes begin a file with the bytes of a pickle's protocol; such a file is an ordinary one."""
    from zoo.hub.weights import read_header

    for padding in range(1200):
        path = tmp_path / "model.safetensors"
        write_tensors(path, {"x" * (padding + 1): torch.ones(2)})
        if path.read_bytes()[:2] == b"\x80\x03":
            assert list(read_header(path)) == ["x" * (padding + 1)]
            return
    raise AssertionError("no header had that length")


def test_no_pickle_is_written(tmp_path: Path) -> None:
    """R1: by content, not by name."""
    from tests.tiny import make_trainer

    make_trainer(tmp_path).fit()
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        if file.suffix == ".json":
            json.loads(file.read_text())
        else:
            assert file.suffix == ".safetensors"
            with safe_open(file, framework="pt") as opened:  # the format's own reader, which takes nothing else
                assert list(opened.keys())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("a"), "a is missing"),
        (lambda found: found.update(c=torch.zeros(1)), "c has no place"),
        (lambda found: found.update(a=torch.zeros(2, 3)), r"a is float32 \[2, 3\], the model's is float32 \[3, 2\]"),
        (lambda found: found.update(a=torch.zeros(3, 2, dtype=torch.float64)), r"a is float64 \[3, 2\]"),
        (lambda found: found.update(aa=found.pop("a")), r"a is missing \(did you mean 'aa'\?\)"),
    ],
)
def test_every_tensor_is_accounted_for(change: Callable[[dict[str, torch.Tensor]], Any], message: str) -> None:
    """R6: drop, add, reshape, retype or rename any tensor: it is named, and nothing is loaded."""
    into = {"a": torch.ones(3, 2), "b": torch.ones(4)}
    found = {"a": torch.zeros(3, 2), "b": torch.zeros(4)}
    change(found)
    with pytest.raises(CheckpointError, match=message):
        load_strictly(into, found, "here")
    assert all(bool((tensor == 1).all()) for tensor in into.values())


def test_parts_that_do_not_make_a_whole_are_refused(tmp_path: Path) -> None:
    """R5: a file of parts that is not there must not load as whatever memory held."""
    whole = torch.arange(12.0).view(4, 3)
    halves = [Piece((4, 3), (2, 3), (2 * place, 0), 1, True) for place in range(2)]
    files = [tmp_path / f"model.{place:05d}-of-00002.safetensors" for place in range(2)]
    for place, (file, piece) in enumerate(zip(files, halves, strict=True)):
        write_tensors(file, {"a": whole[2 * place : 2 * place + 2]}, {"a": piece})
    assert torch.equal(read_pieces(files, {})["a"], whole)
    middle = Piece((4, 3), (2, 3), (1, 0), 1, True)
    assert torch.equal(read_pieces(files, {"a": middle})["a"], whole[1:3])
    with pytest.raises(CheckpointError, match="parts of a, not the whole"):
        read_pieces(files[:1], {"a": middle})
