"""The published sets themselves, where they have been fetched: counts that the publishers state."""

from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.data.base import OpenData
from zoo.data.datasets.fashion_mnist import MEAN, STD
from zoo.data.loader import Loader
from zoo.data.splits import ArraySplit
from zoo.registry import DATASETS
from zoo.settings import LoaderSettings
from zoo.structs import Batch


def opened(name: str, **options: Any) -> OpenData:
    return DATASETS.build(DATASETS.check_node({"name": name, **options}, "data"), "data").open()  # type: ignore[no-any-return]


def batches(data: OpenData, split: str) -> list[Batch]:
    loader = Loader(data=data, split=split, settings=LoaderSettings(), augment={}, seed=0, training=split == "train", batch_size=256)
    found = [part for parts in loader for part in parts]
    assert loader.bad == []
    assert sum(int(batch.valid.sum()) for batch in found) == len(data.splits[split])
    return found


def test_fashion_mnist(real_data: Path) -> None:
    data = opened("fashion_mnist", root=str(real_data / "dataset-fashion-mnist/usr/share/datasets/fashion-mnist"), validation=0)
    train = data.splits["train"]
    assert isinstance(train, ArraySplit)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 60_000, "test": 10_000}
    assert data.targets["label"].spec.counts == (6000,) * 10  # type: ignore[attr-defined]
    pixels = train.arrays["image"].to(torch.float32) / 255
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (MEAN, STD)
    assert sum(batch.size for batch in batches(data, "test")) == 10_000


@pytest.mark.parametrize("long_histories", ["last", "windows"])
def test_movielens_100k(real_data: Path, long_histories: str) -> None:
    data = opened("movielens", root=str(real_data / "py_recbole/recbole/dataset_example/ml-100k"), long_histories=long_histories, max_length=50)
    assert data.notes["counts"] == "943 of 943 users, 1682 items, 100000 events"
    assert [len(data.splits[name]) for name in ("validation", "test")] == [943, 943]
    trained = sum(int((batch.targets["item"] > 0).sum()) for batch in batches(data, "train"))
    assert trained == (
        100_000 - 943 * 3 if long_histories == "windows" else sum(min(50, len(user) - 2) for user in data.inputs["history"].catalogue.users.values())
    )  # type: ignore[attr-defined]
    for batch in batches(data, "test"):
        assert (batch.targets["item"] > 0).sum(1).eq(1).all()
        truth = batch.targets["item"].max(1).values
        assert not (batch.targets["seen"] == truth[:, None]).any()


def test_sonic_pi_samples(real_data: Path) -> None:
    data = opened(
        "audio_folder", root=str(real_data / "sonic-pi-samples/usr/share/sonic-pi/samples"), label_from="name", sample_rate=8000, max_seconds=1.0, n_mels=32
    )
    assert sum(len(split) for split in data.splits.values()) == 165
    assert data.targets["label"].spec.num_classes == 14  # type: ignore[attr-defined]
    values = torch.cat([batch.inputs["audio"].values.flatten() for batch in batches(data, "train")])  # type: ignore[union-attr]
    assert abs(float(values.mean())) < 0.1


def test_tweets(real_data: Path, tmp_path: Path) -> None:
    from tools.prepare_vader import SOURCE, prepare

    (tmp_path / SOURCE).parent.mkdir(parents=True)
    (tmp_path / SOURCE).symlink_to(real_data / SOURCE)
    assert prepare(tmp_path, 0.5)["tweets"] == {"positive": 2345, "negative": 1087, "dropped": 768}
    data = opened("table", path=str(tmp_path / "vader_manifests/tweets.csv"), text="text", target="label", tokenizer={"name": "wordpiece", "vocab_size": 2000})
    assert sum(len(split) for split in data.splits.values()) == 3432
    assert sum(batch.size for batch in batches(data, "train")) == len(data.splits["train"])


def test_breast_cancer(tmp_path: Path) -> None:
    from tools.prepare_breast_cancer import prepare

    columns = prepare(tmp_path).read_text().splitlines()[0].split(",")[:-1]
    data = opened("table", path=str(tmp_path / "breast_cancer/breast_cancer.csv"), numbers=columns, target="diagnosis")
    assert len(columns) == 30
    assert sum(len(split) for split in data.splits.values()) == 569
    table = torch.cat([batch.inputs["table"].values["numbers"] for batch in batches(data, "train")])  # type: ignore[index]
    torch.testing.assert_close(table.mean(0), torch.zeros(30), atol=1e-5, rtol=0)
    torch.testing.assert_close(table.std(0, correction=0), torch.ones(30), atol=1e-5, rtol=0)
