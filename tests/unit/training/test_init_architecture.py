"""Weights of a model that computes something else are not taken over without a word."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from safetensors.torch import load_file, save_file

from zoo.cli.main import main
from zoo.training.init_architecture import architecture_of, differences, overrides, told

ENCODER = {"name": "transformer", "dim": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0}


def options(tmp_path: Path, name: str, *more: str) -> list[str]:
    rows = "".join(f"{'good' if place % 2 else 'bad'} film number {place},{'pos' if place % 2 else 'neg'}\n" for place in range(40))
    (tmp_path / "films.csv").write_text("text,label\n" + rows)
    data = ["data=table", f"data.path={tmp_path}/films.csv", "data.text=text", "data.target=label", "data.batch_size=8", "data.max_length=16"]
    model = ["model/encoder=transformer", "model.encoder.dim=24", "model.encoder.depth=1", "model.encoder.heads=2", "model.encoder.mlp_ratio=2.0"]
    return ["train", *data, *model, "logger=none", "trainer.max_steps=1", f"run_dir={tmp_path}/{name}", *more]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    assert main(options(folder, "source")) == 0
    return folder


@pytest.mark.parametrize("path", ["source", "source/bundle"])
def test_options_that_change_no_shape_are_told(source: Path, path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    changed = ["model.encoder.heads=4", "model.encoder.activation=relu", "model.encoder.dropout=0.3"]
    assert main(options(tmp_path, "other", *changed, f"init={source}/{path}")) == 0
    error = capfd.readouterr().err
    assert "model.encoder.activation was gelu, and is relu here" in error
    assert "compute something else" in error
    assert "dropout" not in error, "it is of training only"
    differs = {"model.encoder.heads": [2, 4], "model.encoder.activation": ["gelu", "relu"]}
    assert json.loads((tmp_path / "other" / "init.json").read_text())["differs"] == differs
    back = next(line.partition("way out: ")[2] for line in error.splitlines() if "way out: model.encoder" in line)
    assert main(options(tmp_path, "back", *changed, f"init={source}/{path}", *shlex.split(back))) == 0
    assert "compute something else" not in capfd.readouterr().err


def test_sizes_name_the_overrides_that_mend_them(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert main(options(tmp_path, "wide", "model.encoder.mlp_ratio=4", "model.encoder.depth=2", f"init={source}/source")) == 2
    error = capfd.readouterr().err
    way = re.search(r"way out 1: the sizes of the weights' own model: (.*)", error)
    assert way is not None, error
    assert main(options(tmp_path, "right", f"init={source}/source", *shlex.split(way[1]))) == 0


def test_names_of_another_layout_and_other_components(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(source / "source" / "bundle" / "model.safetensors")
    save_file({f"bert.{name.partition('.')[2]}": value for name, value in tensors.items()}, tmp_path / "theirs.safetensors")
    assert main(options(tmp_path, "named", f"init={tmp_path}/theirs.safetensors")) == 2
    error = capfd.readouterr().err
    assert "names of another library's layout; the folder or archive with its config.json is converted" in error
    for missing, other in re.findall(r"missing: (\S+) \(renamed to (\S+)\?\)", error):
        assert tensors[missing].shape == tensors[next(name for name in tensors if name.partition(".")[2] == other.removeprefix("bert."))].shape
    words = [word for word in options(tmp_path, "lstm", "model/encoder=lstm", f"init={source}/source") if "transformer" not in word]
    assert main([word for word in words if not word.startswith(("model.encoder.heads", "model.encoder.mlp"))]) == 2
    assert "model.encoder is lstm, in the weights' model transformer" in capfd.readouterr().err


def test_a_fit_of_what_is_skipped(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(options(tmp_path, "both", f"init={source}/source", "init_skip=[head]", "init_fit=[head]")) == 2
    assert "init_fit: 'head' is under init_skip=[head]" in capfd.readouterr().err


def test_parts_of_larger_models_and_other_components() -> None:
    ours: dict[str, Any] = {
        "encoder": {"name": "dual", "encoders": {"text": ENCODER | {"heads": 4}, "image": {"name": "vit"}}},
        "head": {"name": "contrastive"},
    }
    theirs = {"encoder": ENCODER, "head": {"name": "classification", "pooling": "mean"}}
    taken = ["encoder.encoders.text.blocks.0.norm1.weight"]
    assert differences(theirs, ours, taken, {"encoder": "encoder.encoders.text"}) == {"model.encoder.encoders.text.heads": [2, 4]}
    assert differences(theirs, ours, [], {"encoder": "encoder.encoders.text"}) == {}, "nothing of it is taken over"
    found = differences(theirs, ours, ["encoder.embedding.weight"], {})
    assert found == {"model.encoder.name": ["transformer", "dual"]}
    assert "way out" not in told(found)
    assert differences(None, ours, taken, {}) == {}


def test_values_are_typed_as_hydra_and_the_shell_read_them() -> None:
    values = [None, True, 2, 0.5, "relu", "a b", [1, 2], {"a": None}]
    found = {f"model.encoder.o{place}": [value, 0] for place, value in enumerate(values)}
    parsed = OverridesParser.create().parse_overrides(shlex.split(overrides(found)))
    assert [override.value() for override in parsed] == values


def test_no_config_is_no_difference(tmp_path: Path) -> None:
    assert architecture_of(None) is None
    (tmp_path / "processor").mkdir()
    assert architecture_of(tmp_path / "processor") is None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": ["no mapping"]}))
    assert architecture_of(tmp_path / "processor") is None
