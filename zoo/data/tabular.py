"""Rows of tables, in training and in prediction: CSV, TSV, JSON and JSON lines by the standard library, Parquet by pyarrow, Hugging Face data
sets by `datasets`.

Rows stay in flat memory (buffers, Arrow), never as Python objects, so that loader processes share them.
"""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from zoo.data.folders import ways
from zoo.data.strings import Strings
from zoo.errors import DataError
from zoo.files import home

INSTALL = "pip install 'zoo-ml[tables]'"


class Format(StrEnum):
    AUTO = "auto"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    JSON = "json"
    PARQUET = "parquet"
    HF = "hf"


class Header(StrEnum):
    FIRST_LINE = "first_line"
    NONE = "none"


class Quoting(StrEnum):
    STANDARD = "standard"
    NONE = "none"


SUFFIXES = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".tab": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSON,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}


@dataclass(frozen=True)
class Reading:
    """How a data set's files are read, so that a file to predict from is read like the one that was trained on.

    Args:
        path: of the training file.
        format: of it; files with its ending, or with one that tells nothing, have the same.
        header: of CSV and TSV files.
        quoting: likewise.
        columns: input -> the column that it is read from, where that is another than its own name.
    """

    path: str = ""
    format: Format = Format.AUTO
    header: Header = Header.FIRST_LINE
    quoting: Quoting = Quoting.STANDARD
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> "Reading":
        """From a data set's options; what it does not have stays as it usually is."""
        given: dict[str, Any] = {
            name: kind(node[name]) for name, kind in (("format", Format), ("header", Header), ("quoting", Quoting)) if node.get(name) in list(kind)
        }
        columns = {name: column for name in ("text", "image", "audio") if isinstance(column := node.get(name), str)}
        path = node.get("path")
        return cls(path=path if isinstance(path, str) else "", columns=columns, **given)

    def reads(self, path: Path) -> bool:
        """Whether a file's ending is one of tables."""
        return path.suffix.lower() in SUFFIXES or (bool(path.suffix) and path.suffix.lower() == Path(self.path).suffix.lower())

    def format_of(self, path: Path) -> Format:
        own = self.format not in (Format.AUTO, Format.HF) and (path.suffix.lower() == Path(self.path).suffix.lower() or path.suffix.lower() not in SUFFIXES)
        return self.format if own else _format(str(path), Format.AUTO)


class Rows(Protocol):
    """A table, read by row or by column."""

    columns: tuple[str, ...]
    origin: str

    def __len__(self) -> int: ...

    def row(self, index: int) -> Mapping[str, Any]: ...

    def column(self, name: str) -> Iterable[Any]: ...


class TextRows:
    """Columns of text.

    Args:
        columns: by name, of equal length.
        origin: the file.
    """

    def __init__(self, columns: Mapping[str, Strings], origin: str) -> None:
        self._columns, self.columns, self.origin = dict(columns), tuple(columns), origin

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def row(self, index: int) -> Mapping[str, Any]:
        return {name: values[index] for name, values in self._columns.items()}

    def column(self, name: str) -> Iterable[Any]:
        return self._columns[name]


class ArrowRows:
    """An Arrow table or a Hugging Face data set: both are memory-mapped or flat."""

    def __init__(self, table: Any, columns: Sequence[str], origin: str) -> None:
        self._table, self.columns, self.origin = table, tuple(columns), origin

    def __len__(self) -> int:
        return len(self._table)

    def row(self, index: int) -> Mapping[str, Any]:
        row = self._table[index] if hasattr(self._table, "features") else self._table.slice(index, 1).to_pylist()[0]
        return {name: _plain(row[name]) for name in self.columns}

    def column(self, name: str) -> Iterable[Any]:
        column = self._table[name]
        return (_plain(value) for value in (column.to_pylist() if hasattr(column, "to_pylist") else column))


def _plain(value: Any) -> Any:
    """The bytes or the path of an undecoded Hugging Face image or sound; anything else as it is."""
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return value["bytes"] or value["path"]
    return value


def read_rows(path: str, format: Format, wanted: Sequence[str], header: Header, quoting: Quoting, holes: Collection[str] = ()) -> dict[str, Rows]:
    """The wanted columns of a file ({"": rows}), or of each split of a Hugging Face data set.

    Args:
        path, format, header, quoting: as in ``Reading``.
        wanted: columns.
        holes: those of them that a JSON row may leave out; what no row has is told all the same.

    Raises:
        DataError: for a missing file or column, or a damaged row, by line.
    """
    kind = _format(path, format)
    if kind is Format.HF:
        return _hugging_face(path, wanted)
    file = home(path)
    if not file.is_file():
        raise DataError(f"no file at {file}\n  way out: {ways(file, 'data.path=FILE')}")
    if kind is Format.PARQUET:
        return {"": _parquet(file, wanted)}
    try:
        return {
            "": _json(file, kind, wanted, holes)
            if kind in (Format.JSON, Format.JSONL)
            else _delimited(file, "\t" if kind is Format.TSV else ",", wanted, header, quoting)
        }
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}; convert it, e.g. with iconv") from error


def read_records(path: Path, reading: Reading, *, texts: bool = True) -> list[dict[str, Any]]:
    """All columns of a file's rows, as ``read_rows`` would give them, except that a JSON row may lack some.

    Args:
        path: of the file.
        reading: how.
        texts: JSON values as training has them; else as they are.

    Raises:
        DataError: for a missing or damaged file, by line.
    """
    kind = reading.format_of(path)
    if not path.is_file():
        raise DataError(f"no file at {path}")
    try:
        match kind:
            case Format.PARQUET:
                return [{name: _plain(value) for name, value in row.items()} for row in _parquet_table(path, None).to_pylist()]
            case Format.JSON | Format.JSONL:
                return [{name: _text(value) if texts else value for name, value in row.items()} for _, row in _objects(path, kind)]
        names, *rows = _lines(path, "\t" if kind is Format.TSV else ",", reading.header, reading.quoting)
        return [dict(zip(names, row, strict=True)) for row in rows]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _format(path: str, format: Format) -> Format:
    if format is not Format.AUTO:
        return format
    if home(path).is_dir():
        return Format.HF
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: its ending tells no format; set data.format to {', '.join(kind for kind in Format if kind is not Format.AUTO)}")
    return SUFFIXES[suffix]


def check_columns(found: Sequence[str], wanted: Sequence[str], origin: str) -> None:
    """Raises ``DataError`` that lists what is absent and what there is."""
    if absent := [column for column in wanted if column not in found]:
        raise DataError(f"{origin} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}; it has {', '.join(found) or 'none'}")


def _delimited(file: Path, delimiter: str, wanted: Sequence[str], header: Header, quoting: Quoting) -> Rows:
    lines = _lines(file, delimiter, header, quoting)
    names = next(lines)
    check_columns(names, wanted, str(file))
    places = [names.index(column) for column in wanted]
    table: list[list[str]] = [[] for _ in wanted]
    for row in lines:
        _add(table, row, places)
    return _text_rows(file, wanted, table)


def _lines(file: Path, delimiter: str, header: Header, quoting: Quoting) -> Iterator[list[str]]:
    """The names of the columns, then each row, of as many fields."""
    csv.field_size_limit(1 << 30)  # a whole article in one field is data, not a mistake
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(
            stream, delimiter=delimiter, quoting=csv.QUOTE_NONE if quoting is Quoting.NONE else csv.QUOTE_MINIMAL, strict=quoting is Quoting.STANDARD
        )
        try:
            first = next(rows, None)
            if first is None:
                raise DataError(f"{file} is empty")
            names = first if header is Header.FIRST_LINE else [str(place) for place in range(len(first))]
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{file}: its header names {', '.join(map(repr, repeated))} more than once")
            yield names
            if header is Header.NONE:
                yield first
            for row in rows:
                if not row:
                    continue
                if len(row) != len(names):
                    raise DataError(
                        f"{file}:{rows.line_num}: {len(row)} fields, expected {len(names)}; data.quoting=none if quotation marks are part of the text"
                    )
                yield row
        except csv.Error as error:
            raise DataError(f"{file}:{rows.line_num}: {error}; data.quoting=none if quotation marks are part of the text") from error


def _add(table: list[list[str]], row: Sequence[str], places: Sequence[int]) -> None:
    for column, place in zip(table, places, strict=True):
        column.append(row[place])


def _text_rows(file: Path, wanted: Sequence[str], table: list[list[str]]) -> TextRows:
    if not table or not table[0]:
        raise DataError(f"{file} holds no row")
    return TextRows({name: Strings(values) for name, values in zip(wanted, table, strict=True)}, str(file))


def _json(file: Path, kind: Format, wanted: Sequence[str], holes: Collection[str]) -> Rows:
    table: list[list[str]] = [[] for _ in wanted]
    known: dict[str, None] = {}
    for place, (line, row) in enumerate(_objects(file, kind)):
        known |= dict.fromkeys(row)
        if place == 0:
            check_columns(list(row), [column for column in wanted if column not in holes], str(file))
        if absent := [column for column in wanted if column not in row and column not in holes]:
            raise DataError(f"{file}:{line}: lacks {', '.join(absent)}")
        _add(table, [_text(row.get(column)) for column in wanted], range(len(wanted)))
    check_columns(list(known), wanted if known else (), str(file))
    return _text_rows(file, wanted, table)


def _objects(file: Path, kind: Format) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with the number of their line, or of their place in a JSON list."""
    if kind is Format.JSON:
        content = _parsed(file.read_text(encoding="utf-8-sig"), str(file))
        yield from ((place, _object(row, f"{file}, row {place}")) for place, row in enumerate(content if isinstance(content, list) else [content], 1))
        return
    with file.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, 1):
            if not text.strip():
                continue
            yield line, _object(_parsed(text, f"{file}:{line}"), f"{file}:{line}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row is an object with column names, not {type(row).__name__}")
    return row


def _text(value: Any) -> str:
    """A JSON value as text that codecs read back: strings as they are, nothing for null."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _parquet(file: Path, wanted: Sequence[str]) -> Rows:
    table = _parquet_table(file, wanted)
    if not len(table):
        raise DataError(f"{file} holds no row")
    return ArrowRows(table, wanted, str(file))


def _parquet_table(file: Path, wanted: Sequence[str] | None) -> Any:
    """The wanted columns; None for all."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{file}: Parquet files need pyarrow: {INSTALL}") from error
    try:
        if wanted is not None:
            check_columns(parquet.read_schema(file).names, wanted, str(file))
        return parquet.read_table(file, columns=None if wanted is None else list(wanted))
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _hugging_face(path: str, wanted: Sequence[str]) -> dict[str, Rows]:
    """A folder written by ``save_to_disk``, or whatever ``load_dataset`` knows by this name; code of data sets is never run."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{path}: Hugging Face data sets need `datasets`: {INSTALL}") from error
    folder = home(path)
    if scripts := sorted(file.name for file in folder.glob("*.py")) if folder.is_dir() else []:
        raise DataError(
            f"{path} holds code ({', '.join(scripts)}), and code of data sets is never run\n"
            "  way out: a folder without it, of data files or written by save_to_disk; or data.path=FILE of one of its data files"
        )
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json"))
    try:
        loaded = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(path)
    except (OSError, ValueError, RuntimeError) as error:  # `datasets` raises these for what is absent, damaged, or needs code
        raise DataError(f"{path} cannot be loaded as a Hugging Face data set: {error}") from error
    splits = {"": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    found: dict[str, Rows] = {}
    for name, part in splits.items():
        check_columns(part.column_names, wanted, f"{path}, split {name!r}" if name else path)
        part = part.select_columns(list(wanted))
        for column, feature in part.features.items():
            if isinstance(feature, datasets.Audio | datasets.Image):
                part = part.cast_column(column, type(feature)(decode=False))
            elif isinstance(feature, datasets.ClassLabel):
                part = part.cast_column(column, datasets.Value("string")) if feature.names is None else _named_labels(part, column, feature)
        found[name] = ArrowRows(part, wanted, f"{path}, split {name!r}" if name else path)
    return found


def _named_labels(part: Any, column: str, feature: Any) -> Any:
    """Class numbers as the names that the data set has for them."""
    import datasets

    names = [None if number is None or number < 0 else feature.int2str(number) for number in part[column]]
    return part.remove_columns(column).add_column(column, names, feature=datasets.Value("string"))
