"""Records: every one that zoo ships can be used, and a wrong one is told by file and key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from zoo.hub.records import RecordError, read_record, records
from zoo.hub.source import sha256_of
from zoo.presets import Preset
from zoo.registry import CONVERTERS, ENCODERS

GOOD: dict[str, Any] = {
    "task": "image-classification",
    "modality": "image",
    "architecture": "vit",
    "format": "vit",
    "licence": "MIT",
    "origin": "somewhere",
    "parameters": 5,
    "sources": ["hf://org/name"],
    "files": {"model.safetensors": {"sha256": "0" * 64, "size": 3}},
}


@pytest.mark.parametrize("name", list(records()))
def test_what_zoo_ships(name: str) -> None:
    record = records()[name]
    assert record.summary
    assert record.architecture in ENCODERS.names()
    assert record.format in ("bundle", *CONVERTERS.names())
    assert record.size > 0
    if record.bundle is not None:
        assert {path: sha256_of(record.bundle / path) for path in record.files} == {path: info.sha256 for path, info in record.files.items()}
        assert record.size <= 2 << 20


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"licenze": "MIT"}, "licenze: unknown\n  way out: did you mean 'licence'"),
        ({"task": None}, "task: a text is needed"),
        ({"parameters": "5"}, "parameters: a number"),
        ({"metrics": {"test/accuracy": 0.5}}, "protocol: figures without a protocol"),
        ({"metrics": {"test/accuracy": True}, "protocol": "x"}, "metrics: names of figures"),
        ({"sources": []}, "sources: a record has either"),
        ({"bundle": "model_cards/x"}, "sources: a record has either"),
        ({"sources": ["hf:/org"]}, "is no address"),
        ({"sources": "hf://org/name"}, "sources: a list"),
        ({"files": {}}, "files: what is fetched"),
        ({"files": {"a": {"sha256": "12", "size": 3}}}, "files.a: a sha256"),
        ({"files": {"../a": {"sha256": "0" * 64, "size": 3}}}, "files.../a: leads out"),
        ({"options": [1]}, "options: a mapping"),
        ({"sources": [], "bundle": "../x"}, "bundle: '../x' is no path"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, change: dict[str, Any], key: str) -> None:
    file = tmp_path / "conf" / "pretrained" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(RecordError) as caught:
        read_record(Preset("pretrained", "mine", file))
    assert str(file) in str(caught.value)
    assert key in str(caught.value)
    assert "way out" in str(caught.value)
