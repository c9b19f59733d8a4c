"""RunConfig: strict, told with path and origin, plain on disk (R1, R2, R14)."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from zoo.compose import compose
from zoo.config import ManyConfigError, RunConfig, encoder_node
from zoo.errors import ConfigError, RegistryError, ZooError


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return compose(["model/encoder=vit", "model.encoder.patch_size=4"])


@pytest.fixture
def tree(config: RunConfig) -> dict[str, Any]:
    return yaml.safe_load(config.to_yaml())


def test_a_saved_config_is_the_same_config(config: RunConfig, tmp_path: Path) -> None:
    """R14: nothing is lost on disk, and no temporary file stays."""
    config.save(tmp_path / "config.yaml")
    assert RunConfig.load(tmp_path / "config.yaml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_hash_is_of_the_numbers(config: RunConfig, tree: dict[str, Any]) -> None:
    assert RunConfig.from_dict(tree | {"run_dir": "elsewhere", "resume": "x"}).hash() == config.hash()
    assert RunConfig.from_dict(tree | {"seed": 1}).hash() != config.hash()


def test_every_key_of_the_tree_is_known_or_refused(tree: dict[str, Any]) -> None:
    """R2: an unknown key at every level, each told with its own path."""

    def places(node: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        inner = [place for key, value in node.items() if isinstance(value, dict) for place in places(value, (*path, key))]
        return [path, *inner]

    for place in places(tree):
        if place in (("logger",), ("callback",), ("data", "augment")):
            continue  # labels are free there
        broken = yaml.safe_load(yaml.safe_dump(tree))
        node = broken
        for key in place:
            node = node[key]
        node["surplus"] = 1
        with pytest.raises(ConfigError) as told:
            RunConfig.from_dict(broken)
        assert told.value.path == ".".join((*place, "surplus"))
        assert told.value.ways_out


def test_all_mistakes_are_told_at_once(tree: dict[str, Any]) -> None:
    """R14: a config that has drifted from the schema lists all of its keys."""
    tree["model"]["encoder"] |= {"old_option": 1, "depth": "three"}
    tree["trainer"]["stepz"] = 3
    with pytest.raises(ManyConfigError) as told:
        RunConfig.from_dict(tree)
    assert [error.path for error in told.value.errors] == ["model.encoder.old_option", "model.encoder.depth", "trainer.stepz"]
    assert "3 mistakes" in str(told.value)


def test_nested_nodes_are_told_alike(tree: dict[str, Any]) -> None:
    """A tokenizer inside a dataset: all of its mistakes, each with its own path and ways out."""
    tree["data"] = {"name": "table", "root": "x", "tokenizer": {"name": "bpe", "vocab_sizes": 3, "vocab_size": "many"}}
    with pytest.raises(ManyConfigError) as told:
        RunConfig.from_dict(tree, lambda path: f"from {path}")
    errors = {error.path: error for error in told.value.errors}
    assert {"data.tokenizer.vocab_sizes", "data.tokenizer.vocab_size"} <= set(errors)
    assert "did you mean 'vocab_size'?" in errors["data.tokenizer.vocab_sizes"].ways_out
    assert all(error.ways_out and error.origin == f"from {path}" for path, error in errors.items())


def test_labels_hold_nodes(tree: dict[str, Any]) -> None:
    tree["callback"] = {"mine": {"name": "early_stopping", "patience": 2}, "off": None}
    assert RunConfig.from_dict(tree).callbacks == {"mine": {"name": "early_stopping", "patience": 2, "min_delta": 0.0}}
    tree["callback"] = {"mine": {"name": "early_stoping"}}
    with pytest.raises(ConfigError, match=r"callback\.mine\.name: .*did you mean 'early_stopping'"):
        RunConfig.from_dict(tree)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "encoder", "_target_"), "os.system", r"model\.encoder\._target_: _target_ asks to run code"),
        (("data", "augment", "x"), {"_partial_": True}, r"data\.augment\.x\._partial_: _partial_ asks to run code"),
        (("trainer", "deeper"), [{"_args_": []}], r"trainer\.deeper\[0\]\._args_"),
        (("name",), "${oc.env:HOME}", r"name: '\$\{oc\.env:HOME\}' is an interpolation"),
        (("seed",), object(), r"seed: .* no plain value"),
        (("model",), None, r"model: missing"),
        (("model", "encoder"), "vit", r"model/encoder=vit"),
        (("optimizer",), {"lr": 1.0}, r"optimizer\.name: None names no optimizer"),
        (("trainer", "batch_size"), 3, r"did you mean data\.batch_size"),
    ],
)
def test_told_with_path_and_way_out(tree: dict[str, Any], path: tuple[str, ...], value: Any, message: str) -> None:
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(ConfigError, match=message) as told:
        RunConfig.from_dict(tree)
    assert "way out" in str(told.value)


def test_files_are_plain_yaml(tmp_path: Path) -> None:
    """R1: a tag that asks for a Python object is no YAML of ours."""
    file, canary = tmp_path / "config.yaml", tmp_path / "canary"
    file.write_text(f"a: !!python/object/apply:os.system ['touch {canary}']\n")
    with pytest.raises(ZooError, match="not plain YAML"):
        RunConfig.load(file)
    assert not canary.exists()


def test_encoder_node_takes_presets() -> None:
    assert encoder_node("vit_tiny", {"depth": 1})["depth"] == 1
    assert encoder_node("vit_tiny", {})["name"] == "vit"
    with pytest.raises(RegistryError, match="did you mean 'vit_tiny'"):
        encoder_node("vit_tinny", {})
