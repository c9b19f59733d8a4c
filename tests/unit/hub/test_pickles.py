"""Foreign pickles give tensors or nothing; none of them runs."""

import os
import pickle
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.errors import CheckpointError
from zoo.hub.pickles import read_pickled, scan

TENSORS = {
    "a.weight": torch.randn(3, 4),
    "a.bias": torch.randn(4, dtype=torch.float64),
    "b": torch.arange(5),
    "half": torch.randn(2).half(),
    "b16": torch.randn(2).bfloat16(),
}


class Bad:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        OrderedDict,
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in tensors.items()},
    ],
)
def test_tensors_are_those_of_torch(tmp_path: Path, legacy: bool, wrap: Any) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(wrap(TENSORS), file, _use_new_zipfile_serialization=not legacy)
    found = read_pickled(file)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused_by_name(tmp_path: Path, legacy: bool, protocol: int) -> None:
    canary = tmp_path / "canary"
    torch.save({"a": TENSORS["a.weight"], "x": Bad(canary)}, tmp_path / "m.bin", _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match="system" if protocol == 2 else "hides what it calls"):
        read_pickled(tmp_path / "m.bin")
    assert not canary.exists()


def test_bare_pickles_and_other_files_are_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bare = tmp_path / "bare.bin"
    bare.write_bytes(pickle.dumps(Bad(canary)))
    text = tmp_path / "text.bin"
    text.write_text("not weights")
    two = tmp_path / "two.bin"
    torch.save(TENSORS, two)
    with zipfile.ZipFile(two, "a") as opened:
        opened.writestr("other/data.pkl", pickle.dumps(Bad(canary), protocol=2))
    for file in (bare, text, two):
        with pytest.raises(CheckpointError, match=file.name):
            read_pickled(file)
    assert not canary.exists()


def test_what_holds_no_tensors_by_name(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.bin")
    with pytest.raises(CheckpointError, match="no tensors by name"):
        read_pickled(tmp_path / "list.bin")


def test_a_pickle_before_a_zip_is_refused_by_the_scan(tmp_path: Path) -> None:
    """zipfile finds the harmless archive at the end, torch would read the pickle at the beginning."""
    canary, file = tmp_path / "canary", tmp_path / "m.bin"
    torch.save({"a": TENSORS["a.weight"], "x": Bad(canary)}, tmp_path / "bad.bin", _use_new_zipfile_serialization=False)
    torch.save(TENSORS, tmp_path / "good.bin")
    file.write_bytes((tmp_path / "bad.bin").read_bytes() + (tmp_path / "good.bin").read_bytes())
    assert zipfile.is_zipfile(file)
    with pytest.raises(CheckpointError, match="ends as a zip and begins as something else"):
        scan(file)
    assert not canary.exists()


def test_an_archive_with_two_readings_is_refused_by_the_scan(tmp_path: Path) -> None:
    """torch takes names in any case and places as they are written; zipfile takes neither."""
    canary, two, cased = tmp_path / "canary", tmp_path / "two.bin", tmp_path / "cased.bin"
    torch.save({"x": Bad(canary)}, tmp_path / "bad.bin")
    torch.save(TENSORS, tmp_path / "good.bin")
    two.write_bytes((tmp_path / "bad.bin").read_bytes() + (tmp_path / "good.bin").read_bytes())
    with pytest.raises(CheckpointError, match="something before or behind it"):
        scan(two)
    with zipfile.ZipFile(cased, "w") as opened:
        opened.writestr("a/DATA.PKL", pickle.dumps(Bad(canary), protocol=2))
        opened.writestr("b/data.pkl", pickle.dumps({}, protocol=2))
    with pytest.raises(CheckpointError, match="2 pickles in it"):
        scan(cased)
    assert not canary.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_damaged_files_say_so(tmp_path: Path, legacy: bool) -> None:
    file = tmp_path / "m.bin"
    torch.save(TENSORS, file, _use_new_zipfile_serialization=not legacy)
    raw = file.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        place, bit = int(torch.randint(0, len(raw), (), generator=generator)), int(torch.randint(0, 8, (), generator=generator))
        for mask in (0xFF, 1 << bit):
            file.write_bytes(raw[:place] + bytes([raw[place] ^ mask]) + raw[place + 1 :])
            with suppress(CheckpointError):  # a flip among the tensors' own bytes is for checksums to find
                read_pickled(file)
        file.write_bytes(raw[:place])
        with pytest.raises(CheckpointError, match=r"m\.bin"):
            read_pickled(file)


def test_every_flip_in_the_directory_of_an_archive_says_so(tmp_path: Path) -> None:
    file = tmp_path / "m.bin"
    torch.save({"a": torch.zeros(1)}, file)
    raw = file.read_bytes()
    for place in range(raw.index(b"PK\x01\x02"), len(raw)):
        for bit in range(8):
            file.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
            with suppress(CheckpointError):
                scan(file)
