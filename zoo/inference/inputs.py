"""What people hand to a model, by the kind of its input: paths, texts, rows and identifiers -> raw samples. Imports no torch.

A raw sample is what the input's codec encodes. Where one thing holds several samples (a table, a folder), each gets an entry of its own.
"""

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.suffixes import IMAGES, SOUNDS
from zoo.data.tabular import SUFFIXES, Reading, read_records
from zoo.errors import DataError
from zoo.files import home
from zoo.specs import InputSpec, PairInput

EXAMPLES = {
    "image": "IMAGE_FILE",
    "text": '--text "some text"',
    "dialogue": '--text "Hello!"',
    "spectrogram": "SOUND_FILE",
    "table": "ROWS.csv",
    "history": "--user ID",
}
TABLES = tuple(SUFFIXES)
GIVES = {
    "class": "labels",
    "taught": "labels",
    "number": "numbers",
    "item": "rankings",
    "pair": "vectors or how near they are",
    "token": "continuations of a text",
    "tags": "a tag for every word",
    "masked": "what stands at masks",
    "context": "vectors",
    "answer": "answers with their place",
    "dialogue": "replies",
}
"""What a model answers with, by the kind of its head's target."""
VALUES = {"image": "IMAGE_FILE", "text": "some text", "spectrogram": "SOUND_FILE", "history": {"user": "ID"}}
ROWS = ("table", "text_pair")
"""Kinds of inputs that are rows of columns."""
SEVERAL = "several"
"""Stands for the kind of a model of several inputs."""
FILES = {
    "image": IMAGES,
    "spectrogram": SOUNDS,
    "text": (".txt",),
    "table": TABLES,
    "text_pair": TABLES,
    "dialogue": TABLES,
    "history": TABLES,
    SEVERAL: TABLES,
}
"""What a folder is searched for."""


@dataclass(frozen=True)
class Sample:
    """One thing to answer for.

    Args:
        name: how the answer calls it: a path, a line of a table, the text itself.
        raw: what the codec encodes; None where it could not be read.
        error: why it could not be read.
    """

    name: Any
    raw: Any = None
    error: str | None = None


def example(inputs: Sequence[InputSpec]) -> str:
    """What `zoo predict BUNDLE` takes next, as people would type it, where a model takes these inputs."""
    if len(inputs) == 1 and isinstance(inputs[0], PairInput):
        return f"--row '{json.dumps(dict.fromkeys(inputs[0].columns, 'some text'))}'"
    if len(inputs) == 1:
        return EXAMPLES.get(inputs[0].kind, "FILE")
    row: dict[str, Any] = {spec.name: VALUES.get(spec.kind, "...") for spec in inputs if spec.kind != "table"}
    row |= {"COLUMN": 1.5} if any(spec.kind == "table" for spec in inputs) else {}
    return f"--row '{json.dumps(row)}'"


def samples(given: Sequence[Any], kind: str, name: str, reading: Reading | None = None) -> list[Sample]:
    """Raw samples of everything that was given.

    Args:
        given: by kind: images (paths, bytes, PIL, arrays, tensors), texts (strings; ``Path`` objects are read), sounds (paths, ``(waveform,
            sample_rate)``), rows (mappings; paths of table files), user ids or lists of item ids. A mapping with the input's name
            as its key stands for its value, whatever the kind.
        kind: of the model's input.
        name: of the model's input.
        reading: how the files of tables are read; None as ``Reading`` has it.
    """
    found: list[Sample] = []
    for place, entry in enumerate(given):
        try:
            found.extend(_expand(entry, kind, name, place, reading or Reading()))
        except DataError as error:
            found.append(Sample(shown(entry, place), error=str(error)))
    return found


def files(words: Sequence[str], kind: str) -> list[Path]:
    """Files that words of a command line stand for: paths, folders (searched for files that fit) and wildcards.

    Raises:
        DataError: for a folder or wildcard with nothing in it. A path that does not exist is kept, and told with the answers.
    """
    found: list[Path] = []
    for word in words:
        path = home(word)
        if is_there(word) and path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in FILES.get(kind, ()) and file.is_file())
            if not inside:
                raise DataError(f"{path}: no file in this folder fits a model of {kind}s; looked for {', '.join(FILES.get(kind, ()))}")
            found += inside
        elif not is_there(word) and glob.has_magic(word):
            found += matches(word)
        else:
            found.append(path)
    return found


def is_there(word: str) -> bool:
    """Whether a word of a command line is a file or folder. A text that is too long for a name is none: pathlib raises for it, os.path does not."""
    return bool(word) and os.path.exists(os.path.expanduser(word))  # noqa: PTH110, PTH111


def matches(word: str) -> list[Path]:
    """Files that a wildcard stands for, in order.

    Raises:
        DataError: for one with nothing in it.
    """
    found = sorted(Path(match) for match in glob.glob(os.path.expanduser(word), recursive=True))  # noqa: PTH111, PTH207 - the word may be absolute
    if not found:
        raise DataError(f"{word}: no file matches (in {Path.cwd()})\n  way out: a path, a folder or a wildcard of files that are there")
    return found


def _expand(entry: Any, kind: str, name: str, place: int, reading: Reading) -> Iterator[Sample]:
    if isinstance(entry, Mapping) and set(entry) == {name}:
        entry = entry[name]
    path = entry if isinstance(entry, Path) else Path(entry) if isinstance(entry, str) and kind in ROWS else None
    if path is not None and kind not in ("image", "spectrogram") and reading.reads(path):
        column = reading.columns.get(name, name)
        for number, row in enumerate(read_records(path, reading, texts=kind != "history"), 1):
            if kind in ROWS:
                yield Sample(f"{path}:{number}", row)
            elif column not in row:
                yield Sample(f"{path}:{number}", error=f"{path}, row {number}: has no column {column!r}; it has {', '.join(row)}")
            elif row[column] is None or row[column] == "":
                yield Sample(f"{path}:{number}", error=f"{path}, row {number}: column {column!r} is empty")
            else:
                yield Sample(f"{path}:{number}", row[column])
    elif isinstance(entry, Path) and kind == "text":
        yield Sample(str(entry), _read(entry))
    elif isinstance(entry, Path) and kind in (*ROWS, "history", "dialogue"):
        raise DataError(f"{entry}: a {kind} is read from {', '.join(TABLES)} files")
    else:
        yield Sample(shown(entry, place), checked(entry, kind))


def checked(entry: Any, kind: str) -> Any:
    """A raw value of one input, if it is one of its kind."""
    match kind:
        case "text" if not isinstance(entry, str):
            raise DataError(f"a text is a string, not {type(entry).__name__}")
        case "dialogue" if not isinstance(entry, str | list):
            raise DataError(f"a conversation is a text, or a list of {{'role', 'content'}}, not {type(entry).__name__}")
        case "table" | "text_pair" if not isinstance(entry, Mapping):
            raise DataError(f"a row is a mapping of column names to values, not {type(entry).__name__}")
        case "history" if isinstance(entry, Mapping):
            if len(entry) != 1 or not set(entry) <= {"user", "items"}:
                raise DataError(f"a history is {{'user': id}} or {{'items': [ids]}}, not {', '.join(map(str, entry)) or 'empty'}")
            return next(iter(entry.values()))
    return str(entry) if isinstance(entry, Path) else entry


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"no text file at {path}; a text itself is given as a string, on the command line as --text") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error


def shown(entry: Any, place: int) -> Any:
    """How an answer names its input: itself where that is plain, else its place."""
    if isinstance(entry, Path):
        return str(entry)
    if isinstance(entry, Mapping) and all(isinstance(value, list | tuple) or _is_plain(value) for value in entry.values()):
        return {str(key): shown(value, place) for key, value in entry.items()}
    if isinstance(entry, list | tuple) and all(map(_is_plain, entry)):
        return list(entry)
    return entry if _is_plain(entry) else f"input {place}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | None)
