"""A folder as transformers saved it is a model: for predict, eval, export, init and pull; made once, and again when it changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.reference.test_converters import saved_bert, small_bert
from zoo.cli.main import main
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import CheckpointError, ZooError
from zoo.hub.cache import Cache
from zoo.hub.resolve import resolve


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return Cache(tmp_path / "cache")


def probabilities(model: str, capfd: pytest.CaptureFixture[str]) -> list[float]:
    capfd.readouterr()
    assert main(["predict", model, "--text", "the cat sat", "--json"]) == 0
    shares = json.loads(capfd.readouterr().out)[0]["probabilities"]
    return [shares[label] for label in sorted(shares)]


def test_transformers_own_folder_predicts_as_transformers(tmp_path: Path, cache: Cache, capfd: pytest.CaptureFixture[str]) -> None:
    theirs = small_bert("BertForSequenceClassification").eval()
    folder = saved_bert(theirs, tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = theirs(**tokenizer("the cat sat", return_tensors="pt")).logits.softmax(dim=-1)[0].tolist()
    assert probabilities(str(folder), capfd) == pytest.approx(expected, abs=1e-5)
    assert len(cache.entries()) == 1
    made = resolve(folder)
    assert resolve(str(folder)) == made, "the second use converts nothing"
    assert not list(cache.models.glob(".*"))

    assert main(["pull", str(folder), "--to", str(tmp_path / "bundle")]) == 0
    assert probabilities(str(tmp_path / "bundle"), capfd) == pytest.approx(expected, abs=1e-5)

    weights = made / "model.safetensors"  # what was damaged in the cache is made again from the folder
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    assert probabilities(str(folder), capfd) == pytest.approx(expected, abs=1e-5)


def test_a_folder_that_changed_is_another_model(tmp_path: Path, cache: Cache) -> None:
    folder = saved_bert(small_bert("BertForSequenceClassification"), tmp_path / "theirs")
    before = resolve(folder)
    saved_bert(small_bert("BertForSequenceClassification"), folder)
    assert resolve(folder) != before
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | {"hidden_size": 25}))
    with pytest.raises(ZooError, match="dim=25"):
        resolve(folder)
    assert not list(cache.models.glob(".*")), "nothing half made stays"


def bias_of(folder: Path) -> torch.Tensor:
    return load_file(resolve(folder) / "model.safetensors")["head.classifier.bias"]


def test_weights_that_were_written_over_are_read_again(tmp_path: Path, cache: Cache) -> None:
    """Of any file that the tensors come from: a pickle of another name, and the parts of an index."""
    folder = saved_bert(small_bert("BertForSequenceClassification"), tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for value in (1.0, 2.0):
        torch.save(tensors | {"classifier.bias": torch.full((3,), value)}, folder / "weights.pt")
        assert bias_of(folder).tolist() == [value] * 3
    (folder / "weights.pt").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "part-a.safetensors")}))
    for value in (3.0, 4.0):
        save_file(tensors | {"classifier.bias": torch.full((3,), value)}, folder / "part-a.safetensors")
        assert bias_of(folder).tolist() == [value] * 3


def test_which_pickle_is_the_model(tmp_path: Path, cache: Cache) -> None:
    folder = saved_bert(small_bert("BertForSequenceClassification"), tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for name, value in (("a_old.pt", 0.0), ("pytorch_model.bin", 1.0), ("optimizer.pt", 5.0)):
        torch.save(tensors | {"classifier.bias": torch.full((3,), value)}, folder / name)
    assert bias_of(folder).tolist() == [1.0] * 3, "the name that transformers gives it"
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"a_old.pt, optimizer.pt, and it cannot be told(?s:.*)pytorch_model.bin"):
        resolve(folder)


def test_hostile_folders(tmp_path: Path, cache: Cache) -> None:
    folder = saved_bert(small_bert("BertForSequenceClassification"), tmp_path / "theirs")
    (tmp_path / "secret.txt").write_text((folder / "vocab.txt").read_text())
    (folder / "vocab.txt").unlink()
    (folder / "vocab.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        resolve(folder)
    (folder / "vocab.txt").unlink()
    (tmp_path / "secret.txt").rename(folder / "vocab.txt")
    os.mkfifo(folder / "w.pt")  # whoever opens it waits for ever
    os.mkfifo(folder / "tokenizer.json")
    (folder / "loop").symlink_to(folder)
    assert resolve(folder).is_dir()


def test_the_hubs_own_cache_links_to_its_files(tmp_path: Path, cache: Cache) -> None:
    """models--org--name/snapshots/COMMIT/file -> ../../blobs/HASH, as huggingface_hub lays it out."""
    folder = saved_bert(small_bert("BertForSequenceClassification"), tmp_path / "plain")
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--name" / "blobs").mkdir()
    for place, path in enumerate(sorted(folder.iterdir())):
        path.rename(tmp_path / "models--org--name" / "blobs" / str(place))
        (snapshot / path.name).symlink_to(f"../../blobs/{place}")
    assert bias_of(snapshot).shape == (3,)


def test_processes_that_find_it_damaged_make_one(tmp_path: Path, cache: Cache) -> None:
    """Each gets the whole model, whoever removes the damaged one and whoever is first to make it again."""
    folder = saved_bert(small_bert("BertForSequenceClassification"), tmp_path / "theirs")
    made = resolve(folder)
    expected = (made / "model.safetensors").read_bytes()
    code = f"from zoo.hub.resolve import resolve; p = resolve({str(folder)!r}); print(len((p / 'model.safetensors').read_bytes()))"
    (made / "model.safetensors").write_bytes(expected[:-1] + bytes([expected[-1] ^ 1]))
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate(timeout=120) for process in running]
    assert [out.strip() for out, _ in told] == [str(len(expected))] * 3, told
    assert (made / "model.safetensors").read_bytes() == expected
    assert not list(cache.models.glob(".*"))


def test_a_family_that_nothing_reads_gives_its_tensors_to_init(tmp_path: Path, cache: Cache) -> None:
    folder = saved_bert(small_bert("BertModel"), tmp_path / "theirs")
    (folder / "config.json").write_text(json.dumps({"model_type": "none_of_ours"}))
    assert resolve(folder, weights=True) == folder
    with pytest.raises(CheckpointError, match="none_of_ours"):
        resolve(folder)


def test_training_starts_from_transformers_folder(tmp_path: Path, cache: Cache) -> None:
    """Tensors of the encoder are taken over under zoo's names."""
    from zoo.training.init import published

    theirs = small_bert("BertModel")
    folder = saved_bert(theirs, tmp_path / "theirs")
    _, found = published(resolve(folder, weights=True))
    torch.testing.assert_close(found["encoder.embedding.weight"], theirs.embeddings.word_embeddings.weight.detach(), rtol=0, atol=0)


def test_transformers_folder_is_measured_on_data_that_is_named(tmp_path: Path, cache: Cache, capfd: pytest.CaptureFixture[str]) -> None:
    """Its accuracy is that of transformers on the same texts; without data, one message says how."""
    theirs = small_bert("BertForSequenceClassification").eval()
    folder = saved_bert(theirs, tmp_path / "theirs")
    capfd.readouterr()  # transformers' own progress
    assert main(["eval", str(folder)]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: data: ")
    assert "theirs was not trained by zoo" in error
    assert "zoo eval MODEL data=" in error
    texts = [f"w{number} w{number * 7 % 100} w{number * 13 % 100}" for number in range(40)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        answers = theirs(**tokenizer(texts, return_tensors="pt", padding=True)).logits.argmax(dim=-1).tolist()
    given = [(answer + (number % 4 == 0)) % 3 for number, answer in enumerate(answers)]  # a quarter is labelled otherwise
    rows = [f"{text},LABEL_{label}\n" for text, label in zip(texts, given, strict=True)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(rows))
    data = ["data=table", f"data.path={tmp_path / 'rows.csv'}", "data.text=text", "data.target=label", "data.validation=0.01", "data.test=0.01"]
    assert main(["eval", str(folder), "--split", "train", "--json", "trainer.device=cpu", *data]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["metrics"]["train/accuracy"] == pytest.approx(0.75, abs=0.03)  # one or two rows may be in the other splits
    assert len(cache.entries()) == 1


def test_transformers_folder_is_exported_as_a_bundle_and_goes_back(tmp_path: Path, cache: Cache, capfd: pytest.CaptureFixture[str]) -> None:
    theirs = small_bert("BertForSequenceClassification").eval()
    folder = saved_bert(theirs, tmp_path / "theirs")
    expected = probabilities(str(folder), capfd)
    assert main(["export", str(folder), "--to", str(tmp_path / "bundle")]) == 0
    assert (tmp_path / "bundle" / "config.yaml").is_file()
    assert probabilities(str(tmp_path / "bundle"), capfd) == pytest.approx(expected, abs=1e-6)
    assert main(["export", str(folder), "--to", str(tmp_path / "back"), "--as", "bert"]) == 0
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "back")
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_texts_are_cut_by_the_tokenizer_of_a_transformers_folder(tmp_path: Path, cache: Cache) -> None:
    """Which has a vocab.txt and no tokenizer.json: as its conversion cuts them, and as transformers does."""
    folder = saved_bert(small_bert("BertModel"), tmp_path / "theirs")
    assert not (folder / "tokenizer.json").exists()
    tokenizer = WordPieceTokenizer(path=str(folder))
    tokenizer.train(["not used"])
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("w1 w99 abc", "W3 ab", "none of these"):
        assert tokenizer.encode(text) == reference(text)["input_ids"]
    for path in ("~nosuchuser/x", "x" * 300):
        with pytest.raises(ValueError, match=r"^path=.*(no such folder|nor the name of a pretrained model)"):
            WordPieceTokenizer(path=path)
