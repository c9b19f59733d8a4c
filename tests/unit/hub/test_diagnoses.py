"""What is no model is told by what is wrong with it, with a way out, and leaves nothing in the cache."""

import errno
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.archives import DIGITS, FILES, zipped
from tests.fault_server import serving
from zoo.cli.main import main
from zoo.errors import CheckpointError, ZooError
from zoo.hub.cache import Cache
from zoo.hub.local import converted
from zoo.hub.pull import pull
from zoo.hub.source import SOURCE
from zoo.hub.wanted import DownloadError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return Cache(tmp_path / "cache")


def tarred(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else "", len(content)
            opened.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


FOREIGN = {"config.json": json.dumps({"model_type": "bert", "hidden_size": "24"}).encode(), "model.safetensors": FILES["model.safetensors"]}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        pytest.param("trunc.zip", zipped(FILES)[:-100], "trunc.zip: the archive is damaged", id="a zip without its end"),
        pytest.param("trunc.tar", tarred(FILES)[:5000], "trunc.tar: the archive is damaged", id="a tar without its end"),
        pytest.param("page.tar.gz", b"<html>log in</html>", "page.tar.gz: the archive is damaged", id="a page for an archive"),
        pytest.param("empty.zip", zipped({}), "empty.zip: the archive is empty", id="a zip of nothing"),
        pytest.param("empty.tar", tarred({}), "empty.tar: the archive is empty", id="a tar of nothing"),
        pytest.param("none.zip", b"", "none.zip: the archive is empty", id="no byte"),
        pytest.param("model", b"hello", "no model: a single file", id="a file"),
        pytest.param("texts.zip", zipped({"notes.txt": b"hello"}), "no model in it: .*it holds notes.txt", id="texts"),
        pytest.param("evil.zip", zipped(FILES | {"../canary": b"x"}), "leads out", id="a path that leads out"),
        pytest.param("link.tar", tarred({"model.safetensors": b""}, tarfile.SYMTYPE), "a link or a device", id="a link"),
        pytest.param("foreign.zip", zipped(FOREIGN), "hidden_size is", id="refused by its converter"),
    ],
)
def test_what_is_wrong_with_an_archive(cache: Cache, name: str, content: bytes, problem: str) -> None:
    with serving({f"/{name}": content}) as server, pytest.raises(ZooError, match=problem) as caught:
        pull(f"{server.url}/{name}#sha256={hashlib.sha256(content).hexdigest()}")
    assert "unpacked:" not in str(caught.value)
    assert "way out" in str(caught.value) or "refused" in str(caught.value) or name == "foreign.zip"
    assert cache.entries() == []
    assert [path.name for path in cache.blobs.iterdir()] == []


def test_a_refused_archive_of_a_record_is_not_kept_either(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in FILES.items()}
    tree = {"task": "image-classification", "modality": "image", "architecture": "cnn", "licence": "MIT", "origin": "x", "parameters": 77658, "files": files}
    (tmp_path / "conf" / "pretrained").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    content = zipped(dict.fromkeys(FILES, b"other"))
    with serving({"/m.zip": content}) as server:
        sources = [f"{server.url}/m.zip#sha256={hashlib.sha256(content).hexdigest()}"]
        (tmp_path / "conf" / "pretrained" / "mine.yaml").write_text("# A test.\n" + yaml.safe_dump(tree | {"sources": sources}))
        with pytest.raises(DownloadError, match="another file is not kept"):
            pull("mine")
    assert cache.all_blobs() == []


def test_what_the_disk_has_no_room_for_is_not_fetched_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong with the archive: it stays, and the next attempt needs no server."""
    content = zipped(FILES)
    checksum = hashlib.sha256(content).hexdigest()

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with serving({"/m.zip": content}) as server:
        address = f"{server.url}/m.zip#sha256={checksum}"
        with monkeypatch.context() as patched:
            patched.setattr("zoo.hub.archive._copy", full)
            with pytest.raises(CheckpointError, match="the disk is full"):
                pull(address)
    assert cache.blob(checksum) is not None
    assert pull(address).source == address


def test_a_file_of_a_package_is_no_model(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"zoo_test_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: zoo-test-model\nVersion: 1.0\n"}
    about["zoo_test_model-1.0.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content = zipped(about | {"zoo_test_model-1.0.dist-info/RECORD": b"", "six.py": b"import sys"})
    (tmp_path / "zoo_test_model-1.0-py3-none-any.whl").write_bytes(content)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PIP_CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match=r"six\.py: no model: a single file(?s:.*)way out: pypi://zoo-test-model==1\.0/FOLDER"):
        pull("pypi://zoo-test-model==1.0/six.py")
    assert cache.all_blobs() == []


def test_what_is_wrong_with_a_folder(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of `zoo pull`, and of a name that is longer than any file's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"")
    expected = {
        "./nowhere": "there is no such folder",
        "./photos": "the folder holds neither config.yaml, as a bundle of zoo does, nor config.json",
        "photos": "the folder holds neither",
        "photos/1.jpg": "is a file",
        str(DIGITS): "zoo's own already",
        "digit_cnn": "digits_cnn",
        "x" * 300: "nor the name of a pretrained model",
        f"./{'x' * 300}": "there is no such folder",
    }
    for word, problem in expected.items():
        assert main(["pull", word]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert problem in told.err
        assert "way out" in told.err
    assert main(["predict", "x" * 300, "y.png"]) == 2
    assert "nor the name of a pretrained model" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["-3", "nan", "0", "much"])
def test_a_size_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], size: str) -> None:
    assert main(["list", "pretrained", "--max-size", size]) == 2
    assert f"--max-size {size}: a number of megabytes is needed" in capsys.readouterr().err


def test_a_conversion_that_is_made_again_is_told(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of every other model; one that has lost its record is made again as well. The conversion itself is replaced: it is not what is tested."""
    monkeypatch.setattr("zoo.hub.convert.convert", lambda folder, fresh, *_, **__: (fresh / "model.safetensors").write_bytes(b"converted"))
    source = tmp_path / "bertbase"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": "bert"}))
    folder = converted(source)
    assert capsys.readouterr().err == ""
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert converted(source) == folder
    what = f"{folder / 'model.safetensors'}: has changed since it was written to the cache"
    assert capsys.readouterr().err == f"{what}: damaged, and not loaded; the model is made again\n"
    (folder / SOURCE).unlink()
    assert converted(source) == folder
    assert (folder / "model.safetensors").read_bytes() == b"converted"


def test_the_source_that_gave_a_model_is_told_again(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By the first pull, by later ones, by `zoo cache`, and in a cache without notes where only a model of another name tells it."""
    files = {name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in FILES.items()}
    tree = {"task": "image-classification", "modality": "image", "architecture": "cnn", "licence": "MIT", "origin": "x", "parameters": 77658, "files": files}
    (tmp_path / "conf" / "pretrained").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    content = zipped(FILES)
    checksum = hashlib.sha256(content).hexdigest()
    with serving({"/b.zip": content}) as server:
        sources = [f"{server.url}/{name}.zip#sha256={checksum}" for name in "ab"]
        for name in ("mine", "other"):
            (tmp_path / "conf" / "pretrained" / f"{name}.yaml").write_text("# A test.\n" + yaml.safe_dump(tree | {"sources": sources}))
        sources_told = [pull("mine").source, pull("mine").source]
    for note in cache.blobs.glob("*.from"):
        note.unlink()
    sources_told += [pull("other").source, *(entry.source for entry in cache.entries())]
    assert set(sources_told) == {sources[1]}
    assert main(["pull", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == sources[1]
