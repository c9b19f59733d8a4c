"""What was damaged in the cache is never loaded: made again with one note where that can be, refused with the command where it cannot."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.archives import FILES, zipped
from tests.fault_server import serving
from zoo.hub.bundle import load_bundle
from zoo.hub.cache import Cache
from zoo.hub.pull import pull
from zoo.hub.source import SOURCE
from zoo.hub.wanted import DownloadError, OfflineError, OtherContentError

Writes = Callable[..., str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return Cache(tmp_path / "cache")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writes:
    """Writes a record with these sources."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "pretrained"
    folder.mkdir(parents=True)

    def write(*sources: str, files: dict[str, bytes] = FILES, read_by: str = "bundle") -> str:
        sums = {name: {"sha256": sum_of(content), "size": len(content)} for name, content in files.items()}
        tree = {"task": "image-classification", "modality": "image", "architecture": "cnn", "licence": "MIT", "origin": "x", "parameters": 1}
        (folder / "mine.yaml").write_text("# A test.\n" + yaml.safe_dump(tree | {"sources": list(sources), "files": sums, "format": read_by}))
        return "mine"

    return write


def sum_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES = [pytest.param(lambda content: content[:-100], id="truncated"), pytest.param(flipped, id="a bit flipped")]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("named", [True, False], ids=["by name", "by address"])
def test_a_damaged_model_is_fetched_again(
    cache: Cache, record: Writes, damage: Callable[[bytes], bytes], named: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte that is here of it is damaged: its files, which a bundle shares with the model, and the archive that they came in."""
    archive = zipped(FILES)
    with serving({"/m.zip": archive}) as server:
        address = f"{server.url}/m.zip#sha256={sum_of(archive)}"
        name = record(address) if named else address
        weights = pull(name, cache=cache).folder / "model.safetensors"
        weights.write_bytes(damage(FILES["model.safetensors"]))
        (cache.blobs / sum_of(archive)).write_bytes(damage(archive))
        monkeypatch.setenv("ZOO_OFFLINE", "1")
        for _ in range(2):  # the second time as the first
            with pytest.raises(OfflineError, match=r"model\.safetensors: has changed .* damaged, and not loaded.*ZOO_OFFLINE(?s:.*)zoo pull "):
                pull(name, cache=cache)
        monkeypatch.delenv("ZOO_OFFLINE")
        capfd.readouterr()
        pulled = pull(name, cache=cache)
        assert len(server.asked) == 2
    told = capfd.readouterr().err
    assert told.count("model.safetensors") == told.count("is made again") == 1
    assert {path: (pulled.folder / path).read_bytes() for path in FILES} == FILES
    assert pulled.source == address
    assert [entry.source for entry in cache.entries()] == [address]
    assert all(sum_of(path.read_bytes()) == path.name for path in cache.all_blobs())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_that_no_model_is_made_of_yet(cache: Cache, record: Writes, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]) -> None:
    archive = zipped(FILES)
    with serving({"/m.zip": archive}) as server:
        name = record(f"{server.url}/m.zip#sha256={sum_of(archive)}")
        shutil.rmtree(pull(name, cache=cache).folder)
        blob = cache.blobs / sum_of(FILES["model.safetensors"])
        blob.write_bytes(damage(FILES["model.safetensors"]))
        capfd.readouterr()
        assert (pull(name, cache=cache).folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert capfd.readouterr().err.count(f"{blob}: damaged") == 1


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small ViT in its own library's layout."""
    import transformers

    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2}')
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("named", [True, False], ids=["by name", "by address"])
def test_a_damaged_converted_model_is_made_again_of_what_is_here(
    cache: Cache, record: Writes, foreign: dict[str, bytes], damage: Callable[[bytes], bytes], named: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its files are others than those that came, which are whole: nobody is asked, so that it goes offline too."""
    archive = zipped(foreign)
    with serving({"/m.zip": archive}) as server:
        address = f"{server.url}/m.zip#sha256={sum_of(archive)}"
        name = record(address, files=foreign, read_by="vit") if named else address
        weights = pull(name, cache=cache).folder / "model.safetensors"
    before = weights.read_bytes()
    for damaged in (weights, weights.parent / SOURCE):
        damaged.write_bytes(damage(damaged.read_bytes()) if damaged == weights else b"{")
        capfd.readouterr()
        pulled = pull(name, cache=cache)
        assert capfd.readouterr().err.count("the model is made again") == 1
        assert weights.read_bytes() == before
        assert (pulled.folder, pulled.source) == (weights.parent, address)
    load_bundle(weights.parent)


@pytest.mark.parametrize("older", [False, True])
def test_a_source_outlives_what_verify_removes(cache: Cache, record: Writes, foreign: dict[str, bytes], older: bool) -> None:
    """The model is removed and its files are right: they came from the second source, and still did."""
    archive = zipped(foreign)
    with serving({"/b.zip": archive}) as server:
        sources = [f"{server.url}/{letter}.zip#sha256={sum_of(archive)}" for letter in "ab"]
        name = record(*sources, files=foreign, read_by="vit")
        pulled = pull(name, cache=cache)
        assert pulled.source == sources[1]
        for note in cache.blobs.glob("*.from") if older else ():  # a cache of before they were noted
            note.unlink()
        (pulled.folder / "model.safetensors").write_bytes(b"damaged")
        cache.verify()
        assert cache.entries() == []
        assert pull(name, cache=cache).source == sources[1]
        assert [entry.source for entry in cache.entries()] == [sources[1]]
        shutil.rmtree(pulled.folder)
        for note in cache.blobs.glob("*.from"):
            note.unlink()
        assert pull(name, cache=cache).source == f"one of {sources[0]}, {sources[1]}"


def test_a_model_whose_record_is_gone_is_made_again(cache: Cache) -> None:
    archive = zipped(FILES)
    with serving({"/m.zip": archive}) as server:
        folder = pull(address := f"{server.url}/m.zip#sha256={sum_of(archive)}", cache=cache).folder
        (folder / SOURCE).unlink()
        assert pull(address, cache=cache).folder == folder
    assert (folder / SOURCE).is_file()


def test_where_files_came_from_goes_with_them(cache: Cache) -> None:
    archive = zipped(FILES)
    with serving({"/m.zip": archive}) as server:
        pull(address := f"{server.url}/m.zip#sha256={sum_of(archive)}", cache=cache)
    assert {cache.came_from(path.name) for path in cache.all_blobs() if path.name != sum_of(archive)} == {address}
    cache.prune([address])
    assert list(cache.blobs.glob("*.from")) == []


# --- another file than was asked for ----------------------------------------------------------------------------------------------


def test_a_wrong_checksum_in_an_address(cache: Cache) -> None:
    archive, wrong = zipped(FILES), "0" * 64
    with serving({"/m.zip": archive}) as server, pytest.raises(OtherContentError) as caught:
        pull(f"{server.url}/m.zip#sha256={wrong}", cache=cache)
    told = str(caught.value)
    assert told.startswith("m.zip: what arrived is another file than the one that was asked for; it is not kept, and nothing was loaded\n")
    assert f"expected: sha256 {wrong} (told by the address)\n" in told
    assert f"/m.zip: its content has sha256 {sum_of(archive)} ({len(archive):,} bytes)\n" in told
    assert "way out 1: see whether the checksum in the address is the one that the publisher tells" in told
    assert "way out 2: if the publisher has changed the file" in told
    assert "does not give it" not in told
    assert "is kept" not in told
    assert [path for path in cache.blobs.iterdir() if path.stat().st_size] == []


@pytest.mark.parametrize("wrong", ["archive", "file"])
def test_a_record_whose_source_has_other_bytes(cache: Cache, record: Writes, wrong: str) -> None:
    """Of the archive that the source is, or of a file in it."""
    archive, other = zipped(FILES), zipped(FILES | {"model.safetensors": b"other"})
    with serving({"/m.zip": other}) as server:
        name = record(f"{server.url}/m.zip#sha256={sum_of(archive if wrong == 'archive' else other)}")
        with pytest.raises(OtherContentError) as caught:
            pull(name, cache=cache)
    told, weights = str(caught.value), FILES["model.safetensors"]
    assert "no source gave what the record tells; another file is not kept, and nothing was loaded" in told
    expected, arrived = (sum_of(archive), (sum_of(other), len(other))) if wrong == "archive" else (sum_of(weights), (sum_of(b"other"), 5))
    assert f"expected: sha256 {expected}" in told
    assert f"sha256 {arrived[0]} ({arrived[1]:,} bytes)" in told
    assert "conf/pretrained/mine.yaml" in told
    assert "what arrived is kept" not in told
    assert cache.entries() == []


def test_a_source_that_gives_nothing_is_told_as_before(cache: Cache, record: Writes) -> None:
    with serving({}) as server, pytest.raises(DownloadError, match=r"no source gave them(?s:.*)status 404(?s:.*)way out: open the address") as caught:
        pull(record(f"{server.url}/m.zip#sha256={'0' * 64}"), cache=cache)
    assert not isinstance(caught.value, OtherContentError)
