"""A folder as transformers saved it is a model: for predict, eval, export, init and pull; made once, and again when it changes."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from tests.reference.test_converters import saved_bert, small_bert
from zoo.cli.main import main
from zoo.errors import ZooError
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


def test_training_starts_from_transformers_folder(tmp_path: Path, cache: Cache) -> None:
    """Tensors of the encoder are taken over under zoo's names."""
    from zoo.training.init import published

    theirs = small_bert("BertModel")
    folder = saved_bert(theirs, tmp_path / "theirs")
    _, found = published(resolve(folder, weights=True))
    torch.testing.assert_close(found["encoder.embedding.weight"], theirs.embeddings.word_embeddings.weight.detach(), rtol=0, atol=0)
