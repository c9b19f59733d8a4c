"""Inputs that samples lack: from the cells of a table to the rows of a batch, and back from a bundle's processor."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.bundles import processor
from zoo.data.base import OpenData
from zoo.data.collate import blank_sample
from zoo.data.fake import fake_batch
from zoo.data.loader import Loader
from zoo.data.processor import Processor
from zoo.errors import CheckpointError, ConfigError, DataError
from zoo.registry import DATASETS, TRANSFORMS
from zoo.settings import Cache, LoaderSettings, Order
from zoo.specs import DataSpec

ROWS = 24
NODE = {
    "image": "picture",
    "text": "caption",
    "numbers": ["size"],
    "categories": ["shop"],
    "target": "label",
    "image_size": 4,
    "optional": ["image", "text", "table"],
}


def written(folder: Path, kind: str, holes: bool = True) -> Path:
    """Row r lacks its picture where 3 divides r, its caption where 4 does, and its numbers where r is odd."""
    rows: list[dict[str, Any]] = []
    for row in range(ROWS):
        Image.new("RGB", (5, 5), (10 * row, 0, 0)).save(folder / f"{row}.png")
        entry: dict[str, Any] = {"picture": f"{row}.png", "caption": f"number {row}", "size": row, "shop": "ab"[row % 2], "label": "xy"[row % 2]}
        for key, absent in (("picture", row % 3 == 0), ("caption", row % 4 == 0), ("size", row % 2), ("shop", row % 2)):
            if absent and holes:
                entry[key] = ""
        rows.append(entry)
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({key: value for key, value in row.items() if value != ""}) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def dataset(path: Path, **options: Any) -> Any:
    return DATASETS.build(DATASETS.check_node({"name": "table", "path": str(path), "validation": 0.0, "test": 0.0} | NODE | options, "data"), "data")


def loader(data: OpenData, cache: Cache = Cache.MEMORY, **options: Any) -> Loader:
    settings = LoaderSettings(cache=cache, order=Order.SEQUENTIAL, max_bad_samples=options.pop("max_bad_samples", ROWS))
    return Loader(**{"data": data, "split": "train", "settings": settings, "augment": {}, "seed": 0, "training": True, "batch_size": ROWS} | options)


@pytest.mark.parametrize("cache", [Cache.MEMORY, Cache.NONE])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_empty_cells_are_absent_inputs(tmp_path: Path, kind: str, cache: Cache) -> None:
    """R9: three inputs of one table. A row without any of them cannot be used; absent rows are zeros, of one position."""
    data = dataset(written(tmp_path, kind)).open()
    assert all(entry.optional for entry in data.spec.inputs)
    source = loader(data, cache)
    (batch,) = next(iter(source))
    rows = torch.arange(ROWS)
    wanted = {"image": rows % 3 != 0, "text": rows % 4 != 0, "table": rows % 2 == 0}
    usable = wanted["image"] | wanted["text"] | wanted["table"]
    assert torch.equal(batch.valid, usable)
    for name, present in wanted.items():
        values = batch.inputs[name]
        assert torch.equal(values.present, present & usable)  # type: ignore[arg-type]
        for tensor in values.values.values() if isinstance(values.values, dict) else (values.values,):
            assert not bool(tensor[~present].any())
    assert batch.inputs["text"].mask is not None
    assert batch.inputs["text"].mask.sum(1)[rows % 4 == 0].tolist() == [1] * 6
    assert [sample for sample, _ in source.bad] == [data.splits["train"].describe(row) for row in rows[~usable].tolist()]
    assert all("none of its inputs, text, image, table" in reason for _, reason in source.bad)
    complete = loader(dataset(written(tmp_path, "csv", holes=False)).open(), cache)
    (whole,) = next(iter(complete))
    assert all(values.present is None for values in whole.inputs.values())
    assert torch.equal(whole.inputs["image"].values[1], batch.inputs["image"].values[1])  # type: ignore[index]


def test_parts_of_a_batch_say_only_what_they_lack(tmp_path: Path) -> None:
    """Both stores, ranks and micro-batches: the rows of the parts are the rows of the whole."""
    data = dataset(written(tmp_path, "csv")).open()
    (whole,) = next(iter(loader(data)))
    for cache in (Cache.MEMORY, Cache.NONE):
        parts = [part for rank in range(3) for part in next(iter(loader(data, cache, rank=rank, world=3, micro_batches=4)))]
        assert [part.size for part in parts] == [2] * 12
        for name, values in whole.inputs.items():
            assert values.present is not None
            found = [torch.ones(2, dtype=torch.bool) if part.inputs[name].present is None else part.inputs[name].present for part in parts]
            assert torch.equal(torch.cat(found), values.present)  # type: ignore[arg-type]
            assert name == "table" or any(part.inputs[name].present is None for part in parts)


def test_transforms_leave_absent_rows_blank(tmp_path: Path) -> None:
    data = dataset(written(tmp_path, "csv")).open()
    transform = TRANSFORMS.build(TRANSFORMS.check_node({"name": "color_jitter", "brightness": 0.5}, "a"), "a")
    (plain,), (batch,) = next(iter(loader(data))), next(iter(loader(data, augment={"jitter": transform})))
    before, after = plain.inputs["image"], batch.inputs["image"]
    assert before.present is not None
    assert torch.equal(before.present, after.present)  # type: ignore[arg-type]
    assert not bool(after.values[~before.present].any())  # type: ignore[index]
    assert not torch.equal(before.values, after.values)  # type: ignore[arg-type]


def test_without_the_option_an_empty_cell_is_a_bad_sample(tmp_path: Path) -> None:
    data = dataset(written(tmp_path, "csv"), optional=["text", "table"]).open()
    assert [entry.name for entry in data.spec.inputs if entry.optional] == ["text", "table"]
    source = loader(data.only(["image", "text"], ["label"]))
    (batch,) = next(iter(source))
    assert torch.equal(batch.valid, torch.arange(ROWS) % 3 != 0)
    assert {reason for _, reason in source.bad} == {"column 'picture' is empty (data.optional=[image] keeps such rows)"}


def test_equal_rows_stay_together_by_what_all_have(tmp_path: Path) -> None:
    """The split does not go by a column with holes, which would put every row without it on one side."""
    path = written(tmp_path, "csv")
    assert "by hash of all inputs" in dataset(path, validation=0.3).open().notes["split"]
    notes = dataset(path, optional=["text", "table"], validation=0.3).open().notes["split"]
    assert "by hash of picture" in notes


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optional": ["images"]}, ConfigError, r"optional=\['images'\]: there is no input 'images'; this data gives text, image, table"),
        ({"text": "captions"}, DataError, "lacks the column captions; it has"),
    ],
)
def test_misspelt_names_are_told(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    """A column that may have holes has to be there all the same."""
    with pytest.raises(error, match=message):
        dataset(written(tmp_path, "jsonl"), **options).open()


@pytest.mark.parametrize("kind", ["image", "text", "audio", "table", "history"])
def test_a_blank_sample_has_the_form_of_a_real_one(kind: str) -> None:
    raw: dict[str, Any] = {
        "image": np.zeros((9, 9), dtype=np.uint8),
        "text": "some words",
        "audio": (np.zeros(4000, dtype=np.float32), 8000),
        "table": {"age": 3, "size": 1, "colour": "red"},
        "history": ["film-1", "film-2"],
    }
    (codec,) = processor(kind).inputs.values()
    real, blank = codec.encode(raw[kind]), blank_sample(codec.spec)
    assert set(real) == set(blank)
    for name, tensor in real.items():
        assert blank[name].dtype == tensor.dtype
        assert blank[name].shape == (tensor.shape if codec.ragged is None else (*tensor.shape[:-1], 1))


def test_a_processor_keeps_what_is_optional(tmp_path: Path) -> None:
    """R18: and answers rows that lack it, alone and among others."""
    fitted = Processor.of(dataset(written(tmp_path, "csv")).open())
    fitted.save(tmp_path / "processor")
    loaded = Processor.load(tmp_path / "processor")
    assert loaded.spec == fitted.spec
    rows = [{"text": "number 3", "image": tmp_path / "3.png"}, {"text": "number 3"}, {"image": tmp_path / "3.png", "text": None}, {"text": None}]
    batch = loaded.batch(rows, with_targets=False)
    assert batch.valid.tolist() == [True, True, True, False]
    assert {name: values.present.tolist() for name, values in batch.inputs.items() if values.present is not None} == {
        "text": [True, True, False, False],
        "image": [True, False, True, False],
        "table": [False] * 4,
    }
    alone = loaded.batch(rows[1:2], with_targets=False).inputs
    assert torch.equal(alone["text"].values, batch.inputs["text"].values[1:2])  # type: ignore[arg-type, index]
    with pytest.raises(DataError, match="none of its inputs, text, image, table: there is nothing to go by"):
        loaded.batch([{}], with_targets=False)
    tree = json.loads((tmp_path / "processor" / "processor.json").read_text())
    for wrong, message in ((["txt"], "'txt' is optional and no input; did you mean 'text'"), ("text", "optional has to be a list of str")):
        (tmp_path / "processor" / "processor.json").write_text(json.dumps(tree | {"optional": wrong}))
        with pytest.raises(CheckpointError, match=message):
            Processor.load(tmp_path / "processor")


def test_specs_with_optional_inputs_survive_and_fake_batches_show_both_cases(tmp_path: Path) -> None:
    spec = dataset(written(tmp_path, "csv")).sketch()
    assert DataSpec.from_dict(spec.to_dict()) == spec
    batch = fake_batch(spec, 12)
    here = torch.stack([values.present for values in batch.inputs.values() if values.present is not None])
    assert here.shape == (3, 12)
    assert bool(here.any(dim=0).all())
    assert not bool(here.all(dim=1).any())
    assert batch.rows(1, 4).inputs["text"].present.tolist() == here[0, 1:4].tolist()  # type: ignore[union-attr]
