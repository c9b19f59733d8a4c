"""Addresses of single files: tensors serve to start from, and what is no model is refused before it is fetched."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo
from tests.fault_server import cut, serving
from zoo.errors import ZooError
from zoo.hub.pull import pull
from zoo.hub.resolve import pretrained
from zoo.training.init import init_weights

WEIGHTS = pretrained()["digits_cnn"] / "model.safetensors"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.hub.download.LONGEST_WAIT", 0.05)


def test_init_from_an_address_of_tensors() -> None:
    content = WEIGHTS.read_bytes()
    model = zoo.load("digits_cnn").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with serving({"/w.safetensors": content}, {"/w.safetensors": [cut(5000)]}) as server:
        uri = f"{server.url}/w.safetensors#sha256={hashlib.sha256(content).hexdigest()}"
        report = init_weights(model, uri, [])
        with pytest.raises(ZooError, match=r"does not say what model .* nothing was fetched(?s:.*)\"init='http"):
            pull(uri)
    assert len(report.loaded) == len(model.state_dict())
    expected = load_file(WEIGHTS)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    init_weights(model, uri, [])  # the server is gone; it is in the cache


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.PT", "model.onnx", "model.gguf"])
def test_files_that_are_no_model_are_not_fetched(name: str) -> None:
    with serving({f"/{name}": b"x"}) as server:
        with pytest.raises(ZooError, match="nothing was fetched"):
            pull(f"{server.url}/{name}#sha256={'0' * 64}")
        assert server.asked == []
