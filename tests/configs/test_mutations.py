"""R2: broken configs and command lines are refused with path and way out, before any data is read."""

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from zoo.cli.main import main
from zoo.compose import compose
from zoo.config import RunConfig
from zoo.errors import ConfigError
from zoo.presets import conf_dir
from zoo.registry import DATASETS


def load_tool() -> ModuleType:
    file = Path(__file__).parents[2] / "tools" / "mutate_configs.py"
    spec = importlib.util.spec_from_file_location("mutate_configs", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate_configs"] = module
    spec.loader.exec_module(module)
    return module


TOOL = load_tool()
ALL = TOOL.mutations()
FREQUENT = ("misspelt key", "wrong type", "misspelt value")
CHOSEN = [mutation for mutation in ALL if not mutation.kind.startswith(FREQUENT)] + [mutation for mutation in ALL if mutation.kind.startswith(FREQUENT)][::8]

watched: list[str] | None = None


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if watched is not None and event in ("open", "os.listdir", "os.scandir", "os.mkdir"):
        watched.append(str(arguments[0]))


sys.addaudithook(hook)


def test_there_are_enough() -> None:
    assert len(CHOSEN) >= 100
    assert len({mutation.kind for mutation in CHOSEN}) >= 10


@pytest.mark.parametrize("mutation", CHOSEN, ids=lambda mutation: f"{mutation.kind}: {' '.join(mutation.arguments)[-60:]}".replace("/", "|"))
def test_refused(mutation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    global watched
    monkeypatch.chdir(tmp_path)
    for name, text in mutation.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    data = tmp_path / "DATA"
    data.mkdir()
    with contextlib.suppress(ImportError):
        for name in DATASETS.names():
            monkeypatch.setattr(DATASETS.load(name), "open", lambda self: pytest.fail("data was opened"))
    watched = []
    try:
        code = main(["train", *mutation.arguments])
    finally:
        touched, watched = watched, None
    error = capsys.readouterr().err
    assert code == 2, error
    assert mutation.path in error
    assert "way out" in error
    assert "Traceback" not in error
    assert not [path for path in touched if path.startswith(str(data)) or ("scikit" in path and path.endswith(".gz"))]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"DATA", *(name.split("/")[0] for name in mutation.files)})


SHIPPED = [f"experiment={file.stem}" for file in sorted((conf_dir() / "experiment").glob("*.yaml"))]


@pytest.mark.parametrize("override", ["seed=0", *SHIPPED])
def test_every_key_of_every_shipped_config(override: str) -> None:
    """R2: each key misspelt, each value of another type; the static check sees all of them."""
    config = compose([override])
    text = config.to_yaml()
    for path, _ in TOOL.leaves(config):
        *parents, leaf = path.split(".")
        for broken_key, value in ((TOOL.misspelt(leaf), 1), (leaf, {"neither": ["a value"]})):
            tree = yaml.safe_load(text)
            node = tree
            for parent in parents:
                node = node[parent]
            node[broken_key] = value
            where = ".".join([*parents, broken_key])
            if parents and parents[-1] == "class_weights":
                continue  # free keys of a mapping option
            with pytest.raises(ConfigError) as told:
                RunConfig.from_dict(tree)
            assert told.value.path.startswith(where)
            assert told.value.ways_out
