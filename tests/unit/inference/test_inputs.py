"""What people hand to a model is read as training read its data."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.data.codecs.table import TableCodec, canonical
from zoo.data.tabular import Reading
from zoo.inference.inputs import files, samples
from zoo.registry import DATASETS

ROWS: list[dict[str, Any]] = [
    {"flag": bool(row % 2), "grade": float(row % 3), "tags": ["a", "b"][: row % 3], "age": row if row % 4 else 0.5, "review": f"word {row}", "y": row % 2}
    for row in range(20)
]
COLUMNS = list(ROWS[0])


def written(folder: Path, kind: str, *, header: bool = True) -> Path:
    path = folder / f"rows.{kind}"
    match kind:
        case "csv" | "tsv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, delimiter="," if kind == "csv" else "\t")
                writer.writerows([COLUMNS] if header else [])
                writer.writerows([json.dumps(row[name]) if name == "tags" else row[name] for name in COLUMNS] for row in ROWS)
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        case "json":
            path.write_text(json.dumps(ROWS))
        case "parquet":
            parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra tables: pip install 'zoo-ml[tables]'")
            import pyarrow

            parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def opened(node: dict[str, Any]) -> Any:
    return DATASETS.build(DATASETS.check_node({"name": "table", "validation": 0.0, "test": 0.0, **node}, "data"), "data").open()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_row_has_the_features_that_it_had_in_training(tmp_path: Path, kind: str) -> None:
    """R18: from any format that was trained on, predicted from every other, and from Python."""
    node = {"path": str(written(tmp_path, kind)), "numbers": ["age"], "categories": ["flag", "grade", "tags"], "target": "y"}
    data = opened(node)
    codec, split = data.inputs["table"], data.splits["train"]
    assert isinstance(codec, TableCodec)
    assert codec.values == [["false", "true"], ["0", "1", "2"], ['["a", "b"]', '["a"]', "[]"]]
    trained = [codec.encode(split.read(row)["table"]) for row in range(20)]
    for given in (*([written(tmp_path, other)] for other in ("csv", "tsv", "jsonl", "json", "parquet")), ROWS):
        found = [codec.encode(sample.raw) for sample in samples(given, "table", "table", Reading.of(node))]
        assert len(found) == 20
        for ours, theirs in zip(trained, found, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("header", "column"), [("first_line", "review"), ("none", "4")])
def test_files_are_read_with_the_options_of_the_training(tmp_path: Path, header: str, column: str) -> None:
    """No row is taken for a header, and the text's column is the one that was trained on."""
    (tmp_path / "rows.txt").write_text("of another format")
    path = written(tmp_path, "tsv", header=header == "first_line").rename(tmp_path / "rows.data")
    node = {"path": str(path), "format": "tsv", "header": header, "text": column, "target": "y" if header == "first_line" else "5"}
    trained = sorted(opened(node).splits["train"].read(row)["text"] for row in range(20))
    found = samples([path, tmp_path / "rows.txt"], "text", "text", Reading.of(node))
    assert sorted(sample.raw for sample in found[:20]) == trained
    assert (found[0].name, found[20].raw) == (f"{path}:1", "of another format")


def test_one_row_without_the_column_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"words": "two"}\n{"text": null}\n{"text": 4}\n')
    found = samples([tmp_path / "a.jsonl"], "text", "text")
    assert [sample.raw for sample in found] == ["one", None, None, "4"]
    assert ["no column 'text'" in (sample.error or "") for sample in found] == [False, True, False, False]
    assert "is empty" in (found[2].error or "")


@pytest.mark.parametrize(("value", "text"), [(True, "true"), ("False", "false"), (3, "3"), (3.0, "3"), ("3.0", "3"), (" x ", "x"), (None, ""), (0.25, "0.25")])
def test_one_text_for_each_category(value: Any, text: str) -> None:
    assert canonical(value) == canonical(json.loads(json.dumps(value))) == text


def test_folders_are_searched_for_what_training_reads(tmp_path: Path) -> None:
    for name in ("a.pbm", "b.oga", "c.parquet", "d.tab"):
        (tmp_path / name).touch()
    assert [[path.name for path in files([str(tmp_path)], kind)] for kind in ("image", "spectrogram", "table")] == [
        ["a.pbm"],
        ["b.oga"],
        ["c.parquet", "d.tab"],
    ]
