"""Samples that are files with a label: paths of a folder, and the splits they fall into.

Letters: S samples.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.folders import ways
from zoo.data.strings import Strings
from zoo.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Folder names, in lower case, that mean a split."""


class FileSplit:
    """Files by path, with labels.

    Args:
        root: that the paths are relative to.
        paths: of the samples.
        labels: of the samples, by number in ``names``.
        names: of the labels.
        rows: which samples belong to the split.
        input: name of the input that the files are.
    """

    def __init__(self, *, root: Path, paths: Strings, labels: Tensor, names: Sequence[str], rows: Tensor, input: str) -> None:
        self.root, self.paths, self.labels, self.names, self.rows, self.input = root, paths, labels, tuple(names), rows, input

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Mapping[str, Any]:
        row = int(self.rows[index])
        return {self.input: self.root / self.paths[row], "label": self.names[int(self.labels[row])]}

    def describe(self, index: int) -> str:
        return str(self.root / self.paths[int(self.rows[index])])

    def counts(self) -> list[int]:
        """Samples of each label."""
        return self.labels[self.rows].bincount(minlength=len(self.names)).tolist()


def labelled_files(*, root: Path, paths: Sequence[str], labels: Sequence[str], splits: Mapping[str, Tensor], input: str) -> dict[str, FileSplit]:
    """Splits over one list of files; labels are those of the training split, sorted.

    Raises:
        DataError: where training has fewer than two labels, or another split has one that training lacks.
    """
    names = sorted({labels[row] for row in splits["train"].tolist()})
    if len(names) < 2:
        raise DataError(f"{root}: {len(names)} class in the training split ({', '.join(names) or 'none'}); two or more are needed")
    known = {name: number for number, name in enumerate(names)}
    if strange := sorted({label for part in splits.values() for row in part.tolist() if (label := labels[row]) not in known}):
        raise DataError(
            f"{root}: labels without a training sample: {', '.join(strange)}; training has {', '.join(names)}; add samples, leave those out, or split otherwise"
        )
    flat, numbers = Strings(paths), torch.tensor([known.get(label, 0) for label in labels])
    return {name: FileSplit(root=root, paths=flat, labels=numbers, names=names, rows=rows, input=input) for name, rows in splits.items()}


def find_files(root: Path, suffixes: Collection[str]) -> list[str]:
    """Paths of files under a folder, relative to it, sorted; hidden ones are left out."""
    if not root.is_dir():
        raise DataError(f"no folder at {root}\n  way out: {ways(root, 'data.root=FOLDER')}")
    found = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.split("/"))]


def folder_splits(paths: Sequence[str]) -> dict[str, Tensor] | None:
    """Rows of each split where every path starts with a split's folder, else None."""
    first = [SPLIT_FOLDERS.get(path.split("/")[0].lower()) if "/" in path else None for path in paths]
    if "train" not in first or None in first:
        return None
    return {name: torch.tensor([row for row, split in enumerate(first) if split == name]) for name in ("train", "validation", "test") if name in first}
