"""Sources of data in their published layouts, made small; splits, counts, and messages where something is wrong."""

import csv
import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tests.published import fashion, idx
from zoo.data.base import Dataset, OpenData
from zoo.data.codecs.history import HistoryCodec, ItemCodec
from zoo.data.loader import Loader
from zoo.data.splits import fraction, hash_split, stratified_folds
from zoo.errors import ConfigError, DataError
from zoo.registry import DATASETS
from zoo.settings import LoaderSettings
from zoo.specs import ClassTarget, ItemTarget, NumberTarget, TextInput


def build(name: str, **options: Any) -> Dataset:
    return DATASETS.build(DATASETS.check_node({"name": name, **options}, "data"), "data")  # type: ignore[no-any-return]


def labels(data: OpenData) -> ClassTarget:
    spec = data.targets["label"].spec
    assert isinstance(spec, ClassTarget)
    return spec


def names(data: OpenData, split: str) -> set[str]:
    return {data.splits[split].describe(row) for row in range(len(data.splits[split]))}


def disjoint(data: OpenData) -> int:
    """Samples of all splits together, which share none."""
    sets = [names(data, split) for split in data.splits]
    assert len(set.union(*sets)) == sum(map(len, sets))
    return sum(map(len, sets))


NODES: dict[str, dict[str, Any]] = {
    "image_folder": {"root": "/nowhere"},
    "audio_folder": {"root": "/nowhere"},
    "movielens": {"root": "/nowhere"},
    "corpus": {"path": "/nowhere"},
    "table": {"path": "/nowhere.csv", "target": "y", "text": "a", "image": "b", "audio": "c", "numbers": ["d"], "categories": ["e"]},
    "fashion_mnist": {"root": "/nowhere", "download": "never"},
}


@pytest.mark.parametrize("name", DATASETS.names())
def test_a_sketch_touches_no_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build(name, **NODES.get(name, {}))

    def refuse(*arguments: object, **rest: object) -> None:
        raise AssertionError(f"touched {arguments}")

    for place in ("builtins.open", "pathlib.Path.open", "pathlib.Path.is_file", "pathlib.Path.is_dir", "os.stat", "socket.socket"):
        monkeypatch.setattr(place, refuse)
    assert dataset.sketch().inputs
    assert dataset.sketch().targets


@pytest.mark.parametrize("name", [name for name in NODES if name in DATASETS.names()])
def test_what_is_not_there_is_named(name: str) -> None:
    """R19: a miss names the place and, where there is one, the command."""
    with pytest.raises(DataError, match="nowhere"):
        build(name, **NODES[name]).open()


def test_digits_by_number() -> None:
    data = build("digits").open()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1258, "validation": 180, "test": 359}
    assert sum(labels(data).counts) == 1258
    assert build("digits", image_size=16).sketch().inputs[0].height == 16  # type: ignore[attr-defined]


# --- Fashion-MNIST ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_from_a_folder(tmp_path: Path, zipped: bool) -> None:
    data = build("fashion_mnist", root=str(fashion(tmp_path, zipped=zipped)), validation=6).open()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 24, "validation": 6, "test": 10}
    assert labels(data).counts == (3, 3, 3, 3, 2, 2, 2, 2, 2, 2)
    assert data.splits["validation"].read(0)["label"] == "Coat"  # image 24
    assert "validation" not in build("fashion_mnist", root=str(tmp_path), validation=0).open().splits


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    images = np.zeros((30, 28, 28))
    for content in (b"", b"\x00\x00\x08", b"no idx at all", idx(images)[:-1], idx(images) + b"x", idx(np.zeros((30, 27, 28))), idx(images[:29])):
        folder = fashion(tmp_path)
        (folder / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(DataError, match="train"):
            build("fashion_mnist", root=str(folder), validation=6).open()
    shutil.rmtree(tmp_path)
    folder = fashion(tmp_path, zipped=True)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\x00" * 99)[:20])
    with pytest.raises(DataError, match="t10k-labels"):
        build("fashion_mnist", root=str(folder), validation=6).open()


# --- MovieLens --------------------------------------------------------------------------------------------------------------------

EVENTS = [
    ("u1", "10", 5, 100),
    ("u1", "20", 3, 50),
    ("u1", "30", 4, 100),
    ("u1", "40", 1, 200),
    ("u2", "20", 5, 9),
    ("u2", "10", 5, 8),
    ("u2", "50", 5, 7),
    ("u3", "10", 2, 1),
]


def movielens(folder: Path, layout: str, events: Sequence[tuple[Any, ...]] = EVENTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    titles = {item: f"Film {item}" for _, item, _, _ in events}
    rows = [[str(value) for value in event] for event in events]
    match layout:
        case "100k":
            (folder / "u.data").write_text("".join("\t".join(row) + "\n" for row in rows))
            (folder / "u.item").write_text("".join(f"{item}|{title}|01-Jan-1995||\n" for item, title in titles.items()), encoding="latin-1")
        case "1m":
            (folder / "ratings.dat").write_text("".join("::".join(row) + "\n" for row in rows))
            (folder / "movies.dat").write_text("".join(f"{item}::{title}::Drama\n" for item, title in titles.items()), encoding="latin-1")
        case "latest":
            (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(",".join(row) + "\n" for row in rows))
            (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(f'{item},"{title}",Drama\n' for item, title in titles.items()))
        case "recbole":
            head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            (folder / "ml.inter").write_text(head + "".join("\t".join(row) + "\n" for row in rows))
            (folder / "ml.item").write_text("item_id:token\tmovie_title:token_seq\n" + "".join(f"{item}\t{title}\n" for item, title in titles.items()))
    return folder


@pytest.mark.parametrize("layout", ["100k", "1m", "latest", "recbole"])
def test_every_published_layout_gives_the_same(tmp_path: Path, layout: str) -> None:
    data = build("movielens", root=str(movielens(tmp_path, layout)), max_length=5).open()
    history, target = data.inputs["history"], data.targets["item"]
    assert isinstance(history, HistoryCodec)
    assert isinstance(target, ItemCodec)
    raw = history.catalogue.items
    assert raw == ["10", "20", "30", "40", "50"]
    assert history.catalogue.titles[1] == "Film 20"
    # u1 in time: 20, 10, 30 (10 and 30 in the same second keep the file's order), 40; u2: 50, 10, 20; u3 has too few
    assert {user: [raw[item - 1] for item in items] for user, items in history.catalogue.users.items()} == {"u1": ["20", "10", "30"], "u2": ["50", "10"]}
    test = data.splits["test"].read(0)
    assert [raw[item - 1] for item in test["history"].tolist()] == ["20", "10", "30"]
    assert test["item"]["next"].tolist() == [0, 0, 4]
    assert sorted(raw[item - 1] for item in test["item"]["seen"].tolist()) == ["10", "20", "30"]
    validation = data.splits["validation"].read(1)
    assert ([raw[item - 1] for item in validation["history"].tolist()], validation["item"]["next"].tolist()) == (["50"], [1])
    train = data.splits["train"].read(0)
    assert (train["history"].tolist(), train["item"]["next"].tolist()) == ([2], [1])
    assert isinstance(target.spec, ItemTarget)
    assert target.spec.num_items == 5


def test_held_out_events_do_not_train(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    events = [(f"u{user}", str(item), 4, place) for user in range(20) for place, item in enumerate(random.permutation(200)[: 3 + user * 2])]
    for long_histories in ("last", "windows"):
        data = build("movielens", root=str(movielens(tmp_path, "100k", events)), max_length=7, long_histories=long_histories).open()
        held = {(data.splits[name].describe(row), int(data.splits[name].read(row)["item"]["next"][-1])) for name in ("validation", "test") for row in range(20)}
        trained = [
            (split.describe(row), item) for split in [data.splits["train"]] for row in range(len(split)) for item in split.read(row)["item"]["next"].tolist()
        ]
        assert len(held) == 40
        assert not held & set(trained)
        assert len(trained) == len(set(trained))  # windows do not overlap
        assert len(trained) == sum(max(0, 3 + user * 2 - 3) for user in range(20))
    lengths = [len(data.splits["train"].read(row)["history"]) for row in range(len(data.splits["train"]))]
    assert max(lengths) == 7


def test_ratings_below_the_limit_are_left_out(tmp_path: Path) -> None:
    events = [*EVENTS, ("u1", "60", 5, 300)]
    data = build("movielens", root=str(movielens(tmp_path, "100k", events)), min_rating=2).open()
    assert data.notes["counts"] == "2 of 3 users, 5 items, 7 events"  # user 1's rating of 1 went, and item 40 with it
    with pytest.raises(DataError, match="min_rating"):
        build("movielens", root=str(tmp_path), min_rating=6).open()


def test_a_batch_of_histories(tmp_path: Path) -> None:
    data = build("movielens", root=str(movielens(tmp_path, "100k"))).open()
    loader = Loader(data=data, split="test", settings=LoaderSettings(), augment={}, seed=0, training=False, batch_size=8)
    (batch,) = next(iter(loader))
    assert batch.inputs["history"].values.tolist() == [[2, 1, 3], [5, 1, 0]]  # type: ignore[union-attr]
    assert batch.targets["item"].tolist() == [[0, 0, 4], [0, 2, 0]]
    assert batch.targets["seen"].tolist() == [[1, 2, 3], [1, 5, 0]]


def test_damaged_events_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n1\t2\n")
    with pytest.raises(DataError, match=r"u\.data:2"):
        build("movielens", root=str(tmp_path)).open()
    (tmp_path / "u.data").write_text("1\t2\tgood\t4\n")
    with pytest.raises(DataError, match="'good'"):
        build("movielens", root=str(tmp_path)).open()


# --- folders ----------------------------------------------------------------------------------------------------------------------


def images(folder: Path, count: int, colour: int = 9) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (12, 10), (colour, number, 0)).save(folder / f"{number}.png")


def test_images_split_by_folder(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        for label in ("cat", "dog"):
            images(tmp_path / split / label, count)
    data = build("image_folder", root=str(tmp_path), image_size=8).open()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 10, "validation": 4, "test": 6}
    assert (labels(data).labels, labels(data).counts) == (("cat", "dog"), (5, 5))
    images(tmp_path / "val" / "cow", 1)
    with pytest.raises(DataError, match="without a training sample: cow"):
        build("image_folder", root=str(tmp_path)).open()


def test_images_split_by_hash_stay_in_their_split(tmp_path: Path) -> None:
    for label in ("cat", "dog", ".hidden"):
        images(tmp_path / label, 40)
    first = build("image_folder", root=str(tmp_path), validation=0.2, test=0.2).open()
    assert disjoint(first) == 80
    for number in range(0, 40, 3):
        (tmp_path / "cat" / f"{number}.png").unlink()
    second = build("image_folder", root=str(tmp_path), validation=0.2, test=0.2).open()
    assert all(names(second, split) <= names(first, split) for split in first.splits)
    images(tmp_path, 1)
    with pytest.raises(DataError, match="no class's folder"):
        build("image_folder", root=str(tmp_path)).open()


def test_damaged_images_are_counted(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        images(tmp_path / "train" / label, 4)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"damaged")
    data = build("image_folder", root=str(tmp_path), image_size=8).open()
    loader = Loader(data=data, split="train", settings=LoaderSettings(), augment={}, seed=0, training=True, batch_size=8)
    (batch,) = next(iter(loader))
    assert int(batch.valid.sum()) == 7
    assert [entry.sample for entry in loader.bad] == [str(tmp_path / "train" / "cat" / "0.png")]


def sounds(folder: Path, name_list: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(name_list):
        soundfile.write(folder / name, np.random.default_rng(number).normal(size=800) * 0.1, 8000)


SOUND = {"sample_rate": 8000, "n_mels": 16, "max_seconds": 0.1}


def test_sounds_by_file_name_in_stratified_folds(tmp_path: Path) -> None:
    sounds(tmp_path, [f"{label}_{number}.wav" for label, count in (("kick", 10), ("snare", 15), ("hat", 6)) for number in range(count)])
    tested: set[str] = set()
    for fold in range(5):
        data = build("audio_folder", root=str(tmp_path), label_from="name", fold=fold, **SOUND).open()
        assert disjoint(data) == 31
        assert labels(data).labels == ("hat", "kick", "snare")
        assert all(abs(count - part) <= 1.3 for count, part in zip(labels(data).counts, (3.6, 6, 9), strict=True))
        assert not tested & names(data, "test")
        tested |= names(data, "test")
    assert len(tested) == 31
    with pytest.raises(DataError, match="no match of pattern"):
        build("audio_folder", root=str(tmp_path), label_from="name", pattern="(x+)", **SOUND).open()


def test_sounds_by_folder_and_by_manifest(tmp_path: Path) -> None:
    for label in ("a", "b"):
        sounds(tmp_path / label, [f"{number}.flac" for number in range(6)])
    assert disjoint(build("audio_folder", root=str(tmp_path), **SOUND).open()) == 12
    rows = [
        {"path": f"{label}/{number}.flac", "label": label * 2, "fold": ("train", "train", "train", "dev", "test", "test")[number]}
        for label in "ab"
        for number in range(6)
    ]
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"list.{ending}").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "label", "fold"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        data = build("audio_folder", root=str(tmp_path), label_from="manifest", manifest=f"list.{ending}", split_column="fold", **SOUND).open()
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "validation": 2, "test": 4}
        assert labels(data).labels == ("aa", "bb")
    with pytest.raises(DataError, match="lacks name; it has path, label, fold"):
        build("audio_folder", root=str(tmp_path), label_from="manifest", manifest="list.csv", label_column="name").open()


@pytest.mark.parametrize(
    "options", [{"folds": 2}, {"fold": 5}, {"label_from": "manifest"}, {"manifest": "a.csv"}, {"pattern": "("}, {"pattern": "abc"}, {"n_mels": 4000}]
)
def test_options_of_sounds_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build("audio_folder", root="/nowhere", **options)


# --- tables -----------------------------------------------------------------------------------------------------------------------

ROWS = [
    {"text": f'text "{number}", with\ttab' if number % 3 else "shared words", "x": number, "colour": "rgb"[number % 3], "y": "pos" if number % 2 else "neg"}
    for number in range(60)
]


def table_file(folder: Path, kind: str, rows: list[dict[str, Any]] = ROWS, name: str = "a") -> Path:
    path = folder / f"{name}.{kind}"
    match kind:
        case "csv" | "tsv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
                writer.writeheader()
                writer.writerows(rows)
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra tables: pip install 'zoo-ml[tables]'")
            import pyarrow

            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case "hf":
            datasets = pytest.importorskip("datasets", reason="needs the extra tables: pip install 'zoo-ml[tables]'")
            datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


COLUMNS = {"text": "text", "numbers": ["x"], "categories": ["colour"], "target": "y", "tokenizer": {"name": "byte"}, "validation": 0.2, "test": 0.2}


def test_every_format_gives_the_same_batches(tmp_path: Path) -> None:
    seen = []
    for kind in ("csv", "tsv", "jsonl", "parquet", "hf"):
        data = build("table", path=str(table_file(tmp_path, kind)), **COLUMNS).open()
        assert sum(len(split) for split in data.splits.values()) == 60
        loader = Loader(data=data, split="train", settings=LoaderSettings(), augment={}, seed=0, training=True, batch_size=64)
        (batch,) = next(iter(loader))
        assert loader.bad == []
        table = batch.inputs["table"].values
        assert isinstance(table, dict)
        seen.append((batch.inputs["text"].values.tolist(), table["numbers"].tolist(), table["categories"].tolist(), batch.targets["label"].tolist()))  # type: ignore[union-attr]
    assert all(entry == seen[0] for entry in seen)


def test_equal_texts_stay_in_one_split(tmp_path: Path) -> None:
    data = build("table", path=str(table_file(tmp_path, "csv")), **COLUMNS).open()
    where = [name for name, split in data.splits.items() for row in range(len(split)) if split.read(row)["text"] == "shared words"]
    assert len(where) == 20
    assert len(set(where)) == 1


def test_the_vocabulary_is_fitted_on_training_alone(tmp_path: Path) -> None:
    train, test = [{"t": "aaa bbb", "y": str(row % 2)} for row in range(9)], [{"t": "ccc ddd", "y": "1"}]
    paths = {"path": str(table_file(tmp_path, "csv", train, "train")), "test_path": str(table_file(tmp_path, "csv", test, "test"))}
    data = build("table", text="t", target="y", tokenizer={"name": "wordpiece"}, **paths).open()
    assert data.inputs["text"].encode("ccc")["values"].tolist() == [2, 1, 3]  # [UNK]: no letter c in training
    spec = data.inputs["text"].spec
    assert isinstance(spec, TextInput)
    assert spec.vocab_size == 5 + 4 + 4  # special tokens; a, b, ##a, ##b; ##aa, aaa, ##bb, bbb
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 9, "test": 1}


def test_splits_by_column_and_numbers_to_tell(tmp_path: Path) -> None:
    rows = [{"a": row, "b": row * 2 if row else "", "c": -row, "part": ("train", "val", "TEST")[row % 3]} for row in range(12)]
    data = build("table", path=str(table_file(tmp_path, "csv", rows)), numbers=["a"], target=["b", "c"], target_kind="number", split_column="part").open()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "validation": 4, "test": 4}
    spec = data.targets["value"].spec
    assert isinstance(spec, NumberTarget)
    assert (spec.mean, spec.columns) == ((12.0, -4.5), ("b", "c"))  # rows 3, 6, 9 of b; 0, 3, 6, 9 of c
    assert torch.isnan(data.targets["value"].encode(data.splits["train"].read(0)["value"])["values"]).tolist() == [True, False]


def test_files_without_a_header_and_with_plain_quotation_marks(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(f'{row}\t"half a quote {row}\t{"ab"[row % 2]}\n' for row in range(20)))
    data = build("table", path=str(tmp_path / "a.tsv"), header="none", quoting="none", text="1", target="2", tokenizer={"name": "byte"}).open()
    assert data.splits["train"].read(0)["text"].startswith('"half a quote')
    with pytest.raises(DataError, match=r"quoting=none"):
        build("table", path=str(tmp_path / "a.tsv"), header="none", text="1", target="2").open()


def test_several_classes_a_row_and_files_by_path(tmp_path: Path) -> None:
    images(tmp_path / "pictures", 8)
    rows = [{"file": f"pictures/{row}.png", "tags": ["a", "b"][: row % 3]} for row in range(8)]
    data = build(
        "table", path=str(table_file(tmp_path, "jsonl", rows)), image="file", image_size=8, target="tags", target_kind="multi", validation=0.0, test=0.0
    ).open()
    loader = Loader(data=data, split="train", settings=LoaderSettings(), augment={}, seed=0, training=False, batch_size=8)
    (batch,) = next(iter(loader))
    assert batch.targets["label"].tolist() == [[0, 0], [1, 0], [1, 1]] * 2 + [[0, 0], [1, 0]]
    assert batch.inputs["image"].values.shape == (8, 3, 8, 8)  # type: ignore[union-attr]


def test_mistakes_in_tables_are_told(tmp_path: Path) -> None:
    path = str(table_file(tmp_path, "csv"))
    with pytest.raises(DataError, match=r"lacks the column txt; it has text, x, colour, y"):
        build("table", path=path, text="txt", target="y").open()
    for options in ({"text": "y"}, {}, {"text": "text", "target": []}, {"text": "text", "validation": 0.6, "test": 0.5}, {"text": "text", "max_length": 1}):
        with pytest.raises(ConfigError, match=r"data(\.\w+)?: dataset 'table' cannot be built"):
            build("table", **{"path": path, "target": "y", **options})
    broken = {
        "ragged.csv": "a,y\n1,2\n1,2,3\n",
        "twice.csv": "a,a,y\n1,2,3\n",
        "empty.csv": "",
        "head.csv": "a,y\n",
        "bad.jsonl": '{"a": 1, "y": 2}\n{"a"\n',
        "list.jsonl": "[1]\n",
    }
    for name, content in broken.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            build("table", path=str(tmp_path / name), numbers=["a"], target="y").open()
    (tmp_path / "latin.csv").write_bytes("a,y\né,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        build("table", path=str(tmp_path / "latin.csv"), text="a", target="y").open()


def test_data_sets_with_code_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra tables: pip install 'zoo-ml[tables]'")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(DataError, match=r"holds code \(set\.py\).*never run"):
        build("table", path=str(tmp_path / "set"), text="text", target="y").open()


def test_rows_without_an_answer_or_text_are_bad_samples(tmp_path: Path) -> None:
    rows = [{"t": "" if row == 3 else f"text {row}", "y": "" if row == 5 else str(row % 2)} for row in range(12)]
    data = build("table", path=str(table_file(tmp_path, "csv", rows)), text="t", target="y", validation=0.0, test=0.0).open()
    loader = Loader(data=data, split="train", settings=LoaderSettings(), augment={}, seed=0, training=True, batch_size=12)
    (batch,) = next(iter(loader))
    assert int(batch.valid.sum()) == 10
    assert sorted(sample.rsplit(",")[-1] for sample, _ in loader.bad) == [" row 4", " row 6"]


# --- rules ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "column", "cell"),
    [
        ({"audio": "sound", "target": "y"}, "sound", ""),
        ({"text": "t", "target": "x", "target_kind": "number"}, "x", "much"),
        ({"text": "t", "target": "tags", "target_kind": "multi"}, "tags", "[broken"),
        ({"numbers": ["x"], "target": "y"}, "x", "much"),
    ],
)
def test_one_bad_cell_ends_no_run(tmp_path: Path, options: dict[str, Any], column: str, cell: str) -> None:
    """Fits leave out what cannot be used; whether it is too much is the loader's to say."""
    sounds(tmp_path, ["clip.wav"])
    rows = [{"t": f"text {row}", "x": row, "y": "ab"[row % 2], "tags": "a|b"[: 1 + 2 * (row % 2)], "sound": "clip.wav"} for row in range(12)]
    rows[0][column] = cell
    data = build("table", path=str(table_file(tmp_path, "csv", rows)), **options, n_mels=8, validation=0.0, test=0.0).open()
    loader = Loader(data=data, split="train", settings=LoaderSettings(max_bad_samples=1), augment={}, seed=0, training=True, batch_size=12)
    (batch,) = next(iter(loader))
    assert int(batch.valid.sum()) == 11
    assert [sample.rsplit(",")[-1] for sample, _ in loader.bad] == [" row 1"]
    if "numbers" in options:
        assert float(batch.inputs["table"].values["numbers"][batch.valid].mean().abs()) < 1e-6  # type: ignore[index]


def test_columns_that_the_model_does_not_take_spoil_no_row(tmp_path: Path) -> None:
    """Which rows a model trains on depends on its own input and target alone."""
    rows = [{"text": f"word {number}", "photo": "" if number % 2 else "absent.png", "age": number, "label": "ab"[number % 2]} for number in range(40)]
    path = table_file(tmp_path, "csv", rows)
    data = build("table", path=str(path), text="text", image="photo", numbers=["age"], target="label").open()
    with pytest.raises(DataError, match="none of the"):
        Loader(data=data, split="train", settings=LoaderSettings(), augment={}, seed=0, training=True, batch_size=8)
    for name in ("text", "table"):
        only = data.only({name}, {"label"})
        assert (list(only.inputs), list(only.targets), only.spec.inputs[0].name) == ([name], ["label"], name)
        loader = Loader(data=only, split="train", settings=LoaderSettings(), augment={}, seed=0, training=True, batch_size=8)
        assert sum(int(part.valid.sum()) for parts in loader for part in parts) == len(data.splits["train"])
    assert list(data.only({"text"}, ()).splits["test"].read(0)) == ["text"]
    with pytest.raises(DataError, match="no input 'sound'; it has text, image, table"):
        data.only({"sound"}, {"label"})


def test_hash_splits_have_their_sizes() -> None:
    rows = hash_split([f"sample {number}" for number in range(20_000)], validation=0.1, test=0.3)
    assert {name: round(len(part) / 20_000, 2) for name, part in rows.items()} == {"train": 0.6, "validation": 0.1, "test": 0.3}
    assert 0 <= fraction("\udcff") < 1


def test_folds_are_balanced_in_every_class() -> None:
    texts, classes = [f"{number}" for number in range(100)], ["a"] * 7 + ["b"] * 50 + ["c"] * 43
    fold = stratified_folds(texts, classes, 5)
    for label in "abc":
        counts = fold[torch.tensor([entry == label for entry in classes])].bincount(minlength=5)
        assert int(counts.max() - counts.min()) <= 1
