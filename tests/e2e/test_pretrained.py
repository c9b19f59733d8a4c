"""The checkpoints in model_cards are what their cards say, and need nothing from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from zoo.cli.main import main
from zoo.hub.records import records
from zoo.hub.resolve import pretrained

ROOT = Path(__file__).parents[2]
ANSWERS = {"image-classification": "label", "text-classification": "label", "text-generation": "continuation"}
BLOCKED = """
import socket, sys

def refused(*arguments, **options):
    raise SystemExit("a socket was opened")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refused
from zoo.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_every_bundle_has_a_record_and_every_record_a_bundle() -> None:
    bundles = {path.parent.resolve() for path in (ROOT / "model_cards").glob("*/config.yaml")}
    assert {path.resolve() for path in pretrained().values()} == bundles
    assert all((path / "model.safetensors").stat().st_size <= 2 << 20 for path in bundles)
    assert sum((path / "model.safetensors").stat().st_size for path in bundles) <= 12 << 20


@pytest.mark.parametrize("name", list(pretrained()))
def test_card_record_and_experiment_agree(name: str) -> None:
    """Every figure of a record is in the bundle's metrics, in its card, and beside the command in its experiment's header."""
    record = records()[name]
    assert record.bundle is not None
    measured = json.loads((record.bundle / "metrics.json").read_text())
    card = (record.bundle / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"].lower() == record.licence.lower()
    assert measured["parameters"] == record.parameters
    told = {entry["name"]: entry["value"] for result in front["model-index"][0]["results"] for entry in result["metrics"]}
    assert record.metrics
    for figure, value in record.metrics.items():
        assert measured["metrics"][figure] == told[figure] == value
        assert f"{value:.6g}" in card
    for heading in ("## Intended use", "## How sure the figures are", "## Cost, and the same again", "## Limits"):
        assert heading in card, heading
    config = yaml.safe_load((record.bundle / "config.yaml").read_text())
    experiment = ROOT / "conf" / "experiment" / f"{config['name']}.yaml"
    if experiment.is_file():  # the default run has none
        header = experiment.read_text().split("\n\n")[0]
        for figure, value in record.metrics.items():
            assert any(f"{value:.{digits}f}".lstrip("0") in header for digits in (2, 3, 4)), (figure, value)


@pytest.mark.parametrize("name", list(pretrained()))
def test_loads_and_predicts_without_a_network(name: str, tmp_path: Path) -> None:
    """R19: in a process whose sockets connect to nothing, with an empty cache."""
    record = records()[name]
    image = tmp_path / "digit.png"
    Image.fromarray((load_digits().images[9] * 15).astype("uint8")).save(image)
    words = ["predict", name, *(["--text", "what a lovely day"] if record.modality == "text" else [str(image)]), "--json"]
    environment = {**os.environ, "ZOO_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", BLOCKED, *words], capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)[0]
    assert ANSWERS[record.task] in answer
    assert not [path for path in (tmp_path / "cache").glob("*") if path.is_dir()]  # neither blobs nor models; what is known of components may be


def test_digits_reach_the_figures_of_their_card(capfd: pytest.CaptureFixture[str]) -> None:
    """R18: the figures at the end of training, taken again from the bundle alone and the data that comes with scikit-learn."""
    assert main(["eval", "digits_cnn", "--json"]) == 0
    measured = json.loads(capfd.readouterr().out)["metrics"]
    published = json.loads((pretrained()["digits_cnn"] / "metrics.json").read_text())["metrics"]
    assert measured["test/accuracy"] == published["test/accuracy"]
    assert measured["test/loss"] == pytest.approx(published["test/loss"], rel=1e-5)
