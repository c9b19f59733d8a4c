"""R7, R18: a model is measured with the vocabularies that it was trained with, whatever the data's own are."""

from pathlib import Path

import pytest
import torch

from tests.bundles import ITEMS, config, make_bundle, processor
from zoo.build import build_model
from zoo.data.base import OpenData
from zoo.data.codecs.history import Catalogue, HistoryCodec, ItemCodec
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.loader import Loader
from zoo.data.splits import ArraySplit
from zoo.errors import DataError
from zoo.hub.bundle import load_bundle, write_bundle
from zoo.inference.evaluate import with_codecs_of
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
