"""R7, R18: a model is measured with the vocabularies that it was trained with, whatever the data's own are."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from tests.bundles import ITEMS, config, make_bundle, processor
from zoo.build import build_model
from zoo.cli.main import main
from zoo.data.base import OpenData
from zoo.data.codecs.history import Catalogue, HistoryCodec, ItemCodec
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.loader import Loader
from zoo.data.splits import ArraySplit
from zoo.errors import ConfigError, DataError
from zoo.hub.bundle import load_bundle, write_bundle
from zoo.hub.resolve import pretrained
from zoo.inference.evaluate import evaluate_bundle, with_codecs_of
from zoo.settings import LoaderSettings


def opened(labels: tuple[str, ...], mean: float = 0.5) -> OpenData:
    """Six images, the first two of the first label."""
    arrays = {"image": torch.arange(6 * 64, dtype=torch.uint8).reshape(6, 1, 8, 8), "label": torch.tensor([0, 0, 1, 1, 2, 2])}
    return OpenData(
        {"image": ImageCodec(name="image", channels=1, size=(8, 8), mean=(mean,))},
        {"label": ClassCodec(name="label", labels=labels)},
        {"test": ArraySplit(arrays, labels={"label": labels}, what="test image")},
    )


def labels_of(data: OpenData) -> list[int]:
    loader = Loader(data=data, split="test", settings=LoaderSettings(), augment={}, seed=0, training=False, batch_size=8)
    return [label for parts in loader for part in parts for label in part.targets["label"].tolist()]


def test_labels_in_another_order_are_read_by_name(tmp_path: Path) -> None:
    """The specs of images and the number of labels agree; the numbers that the data has for its labels do not count."""
    loaded = load_bundle(make_bundle("image", tmp_path / "bundle"))
    trained = loaded.processor.targets["label"].spec.labels
    same = opened(trained)
    other = opened((trained[2], trained[0], trained[1]))
    assert labels_of(with_codecs_of(loaded, same)) == [0, 0, 1, 1, 2, 2]
    assert labels_of(with_codecs_of(loaded, other)) == [2, 2, 0, 0, 1, 1]


def test_other_catalogues_are_refused(tmp_path: Path) -> None:
    """Identifiers of as many other items are no raw values: nothing tells which items they are."""
    codecs, settings = processor("history"), config("history")
    loaded = load_bundle(write_bundle(tmp_path / "b", config=settings, processor=codecs, model=build_model(settings, codecs.spec), metrics={}))
    catalogue = Catalogue(items=[*ITEMS[1:], ITEMS[0]])
    inputs = {"history": HistoryCodec(name="history", catalogue=catalogue, max_length=6)}
    targets = {"item": ItemCodec(name="item", catalogue=catalogue, history="history", max_length=6)}
    assert OpenData(inputs, targets, {}).spec == codecs.spec
    with pytest.raises(DataError, match=r"(?s)numbers its items in another way.*items: number 0 is 'film-1' -> 'film-2'"):
        with_codecs_of(loaded, OpenData(inputs, targets, {}))
    other_users = Catalogue(items=ITEMS, popular=[2, 1], users={"bob": [1, 2]})
    with_codecs_of(loaded, OpenData({"history": HistoryCodec(name="history", catalogue=other_users, max_length=6)}, targets, {}))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A bundle as a converter writes one: of a name and a model, with neither data nor training."""
    bundle = shutil.copytree(pretrained()["digits_cnn"], tmp_path / "foreign")
    tree = yaml.safe_load((bundle / "config.yaml").read_text())
    kept = {key: tree[key] for key in ("format", "zoo", "plugins", "spec", "name", "model")}
    (bundle / "config.yaml").write_text(yaml.safe_dump(kept | {"data": {}}))
    return bundle


def test_weights_that_zoo_did_not_train_are_measured_on_data_that_is_named(foreign: Path, tmp_path: Path) -> None:
    """Scans of digits as coloured pictures of another size, read as the model's own grey ones of 8 x 8, by the names of its labels."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:100], digits.target[:100], strict=True)):
        for split in ("train", "test"):
            file = tmp_path / "scans" / split / str(label) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 255 / 16).astype("uint8")).save(file)
    measured = evaluate_bundle(foreign, overrides=["data=image_folder", f"data.root={tmp_path / 'scans'}", "data.eval_batch_size=64", "trainer.device=cpu"])
    assert measured.evaluation.figures["test/accuracy"] > 0.95


def test_weights_that_zoo_did_not_train_name_no_data(foreign: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)^data: digits\w* was not trained by zoo.*zoo eval MODEL data=image_folder.*zoo train data=NAME init=MODEL"
    ) as caught:
        evaluate_bundle(foreign)
    assert "optimizer" not in str(caught.value)
    for word in ("model.encoder.dim=3", "optimizer=sgd", "init=x"):
        with pytest.raises(ConfigError, match="cannot change on a finished model"):
            evaluate_bundle(foreign, overrides=["data=digits", word])
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        evaluate_bundle(foreign, overrides=["data=digitz"])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda tree: tree.pop("data"), "data is missing"),
        (lambda tree: tree.update(data=None), "data is null"),
        (lambda tree: tree.update(data="digits"), "data is a str"),
        (lambda tree: tree.update(data=[{"name": "digits"}]), "data is a list"),
    ],
)
@pytest.mark.parametrize("words", [[], ["data=digits"], ["data.root=x"]])
def test_a_config_whose_data_is_damaged_is_told_as_that(
    damage: Callable[[dict[str, Any]], Any], told: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(pretrained()["digits_cnn"], tmp_path / "damaged")
    tree = yaml.safe_load((bundle / "config.yaml").read_text())
    damage(tree)
    (bundle / "config.yaml").write_text(yaml.safe_dump(tree))
    assert main(["eval", str(bundle), *words]) == 2
    error = capsys.readouterr().err
    assert f"{bundle / 'config.yaml'}: {told}, where a mapping" in error
    assert "way out: " in error
    assert "was not trained by zoo" not in error
