"""The checkpoints in model_cards are what their cards say."""

import json
from pathlib import Path

import pytest

from zoo.cli.main import main
from zoo.hub.resolve import pretrained

ROOT = Path(__file__).parents[2]


def test_every_bundle_has_a_record_and_every_record_a_bundle() -> None:
    bundles = {path.parent.resolve() for path in (ROOT / "model_cards").glob("*/config.yaml")}
    assert {path.resolve() for path in pretrained().values()} == bundles
    assert all((path / "model.safetensors").stat().st_size <= 2 << 20 for path in bundles)


def test_digits_reach_the_figures_of_their_card(capfd: pytest.CaptureFixture[str]) -> None:
    """R18: the figures at the end of training, taken again from the bundle alone and the data that comes with scikit-learn."""
    assert main(["eval", "digits_cnn", "--json"]) == 0
    measured = json.loads(capfd.readouterr().out)["metrics"]
    published = json.loads((pretrained()["digits_cnn"] / "metrics.json").read_text())["metrics"]
    assert measured["test/accuracy"] == published["test/accuracy"]
    assert measured["test/loss"] == pytest.approx(published["test/loss"], rel=1e-5)
    assert f"{published['test/accuracy']:.4g}" in (pretrained()["digits_cnn"] / "README.md").read_text()
