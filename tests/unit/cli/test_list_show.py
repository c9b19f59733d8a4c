"""zoo list and zoo show NAME tell the truth about the registry and the config files (R15)."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.cli.main import main
from zoo.presets import conf_dir
from zoo.registry import KINDS


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_kinds_and_their_counts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["kind"]: row for row in told(capsys, "list")}
    for kind, registry in KINDS.items():
        assert rows[kind]["components"] == len(registry.names())
        assert rows[kind]["presets"] == len(list((conf_dir() / registry.group).glob("*.yaml")))
    assert main(["list"]) == 0
    assert "encoder" in capsys.readouterr().out


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_component_is_listed_and_shown(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    entries = told(capsys, "list", kind)
    assert [entry["name"] for entry in entries if entry["type"] == "component"] == KINDS[kind].names()
    for entry in entries:
        assert entry["summary"], entry
        shown = told(capsys, "show", f"{kind}/{entry['name']}")
        assert shown["choose"] == entry["choose"]
        assert main(["show", f"{kind}/{entry['name']}"]) == 0
        text = capsys.readouterr().out
        for option in shown.get("options", []):
            assert option["doc"], f"{kind} {entry['name']}: option {option['name']} has no line under Args"
            assert f"  {option['name']}: {option['type']}" in text


def test_converters_are_chosen_by_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """`zoo train converter=bert` is refused, so that nothing may say it; what a record writes is said."""
    for words in (["list"], ["list", "converter"], ["show", "bert"], ["show", "converter/timm"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "converter=" not in out
        assert words == ["list"] or ("conf/pretrained/NAME.yaml" in out and "config.json" in out)
    assert told(capsys, "show", "converter/bert")["choose"] == "format: bert"


def test_wildcards_plurals_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    names = {entry["name"] for entry in told(capsys, "list", "encoder", "vit*")}
    assert {"vit", "vit_tiny"} <= names
    assert all(name.startswith("vit") for name in names)
    assert told(capsys, "list", "encoders") == told(capsys, "list", "model/encoder") == told(capsys, "list", "encoder")
    assert {entry["kind"] for entry in told(capsys, "list", "table*")} == {"encoder", "dataset"}


def test_a_name_of_several_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert {tree["kind"] for tree in told(capsys, "show", "table")} == {"encoder", "dataset"}
    assert told(capsys, "show", "dataset/table")["kind"] == "dataset"


def test_presets_stand_on_components(capsys: pytest.CaptureFixture[str]) -> None:
    preset = told(capsys, "show", "vit_tiny")
    assert (preset["type"], preset["base"]) == ("preset", "vit")
    assert "vit_tiny" in told(capsys, "show", "encoder/vit")["presets"]


def test_own_presets_are_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf" / "model" / "encoder"
    folder.mkdir(parents=True)
    (folder / "vit_mine.yaml").write_text("# Mine, for small pictures.\ndefaults: [vit, _self_]\ndepth: 2\n")
    (entry,) = told(capsys, "list", "encoder", "vit_mine")
    assert (entry["base"], entry["summary"], entry["origin"]) == ("vit", "Mine, for small pictures.", str(folder / "vit_mine.yaml"))


def test_settings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("trainer", "data", "parallel", "run"):
        assert all(option["doc"] for option in told(capsys, "show", name)["options"])


@pytest.mark.parametrize("arguments", [["list", "encodr"], ["list", "encoder", "nothing*"], ["show", "vitt"], ["show", "--sizes"], ["list", "--sizes"]])
def test_mistakes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "did you mean" in error or "way out" in error


def test_nothing_pretrained_says_how_it_gets_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "pretrained"]) == 0
    out = capsys.readouterr().out
    assert "conf/pretrained" in out or (conf_dir() / "pretrained").is_dir()
