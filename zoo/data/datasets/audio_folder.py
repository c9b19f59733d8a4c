"""Folders of sound files, labelled by folder, by file name or by a manifest."""

import csv
import re
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.base import OpenData
from zoo.data.codecs.audio import AudioCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.files import SPLIT_FOLDERS, FileSplit, find_files, folder_splits, labelled_files
from zoo.data.splits import stratified_folds
from zoo.errors import DataError
from zoo.files import home
from zoo.registry import DATASETS
from zoo.specs import DataSpec

FIT_CLIPS = 500


class LabelFrom(StrEnum):
    FOLDER = "folder"
    NAME = "name"
    MANIFEST = "manifest"


@DATASETS.register("audio_folder")
class AudioFolder:
    """Sound classification from files, as log-mel spectrograms.

    Splits: the folders `train`, `validation`, `test` below root where labels come from folders and these exist; the manifest's split column;
    otherwise stratified folds, each class dealt out in the order of its paths' hashes: `fold` tests, the next one validates, the rest trains.

    Args:
        root: the folder; a manifest's paths are relative to it.
        label_from: folder takes the class's folder; name what `pattern` finds in the file's name; manifest the column `label`.
        pattern: regular expression, matched at the start of the file's name; its first group is the label.
        manifest: CSV or TSV file with a header, below root or absolute; required with label_from=manifest.
        path_column: the manifest's column of paths.
        label_column: its column of labels.
        split_column: its column that says train, validation or test; null takes folds.
        folds: that files without given splits are dealt into; 3 or more.
        fold: the one that tests, from 0.
        sample_rate: in hertz, that sound is resampled to.
        n_mels: mel channels of a spectrogram.
        max_seconds: of a clip; what follows is cut off.
        window_ms: length of a frame, in milliseconds.
        hop_ms: between frames, in milliseconds.
    """

    def __init__(
        self,
        *,
        root: str,
        label_from: LabelFrom = LabelFrom.FOLDER,
        pattern: str = "([^_]+)_",
        manifest: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str | None = None,
        folds: int = 5,
        fold: int = 0,
        sample_rate: int = 16000,
        n_mels: int = 64,
        max_seconds: float = 4.0,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
    ) -> None:
        if folds < 3 or not 0 <= fold < folds:
            raise ValueError(f"folds={folds} has to be 3 or more (one tests, one validates), and fold={fold} from 0 to folds - 1")
        if (manifest is None) is (label_from is LabelFrom.MANIFEST):
            raise ValueError(f"label_from={label_from} and manifest={manifest}: a manifest and label_from=manifest go together")
        if split_column is not None and manifest is None:
            raise ValueError(f"split_column={split_column!r} needs a manifest")
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"pattern={pattern!r} is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"pattern={pattern!r} has {groups} groups; one, the label, is needed")
        self.root, self.label_from, self.pattern, self.manifest = root, label_from, re.compile(pattern), manifest
        self.path_column, self.label_column, self.split_column = path_column, label_column, split_column
        self.folds, self.fold = folds, fold
        self.audio = AudioCodec(name="audio", sample_rate=sample_rate, n_mels=n_mels, max_seconds=max_seconds, window_ms=window_ms, hop_ms=hop_ms)

    def sketch(self) -> DataSpec:
        return DataSpec(inputs=(self.audio.spec,), targets=(ClassCodec(name="label", labels=("a", "b")).spec.sketched("labels", "counts"),))

    def open(self) -> OpenData:
        root = home(self.root)
        paths, labels, rows = self._from_manifest(root) if self.label_from is LabelFrom.MANIFEST else self._from_files(root)
        if rows is None:
            fold = stratified_folds(paths, labels, self.folds)
            test, validation = fold == self.fold, fold == (self.fold + 1) % self.folds
            rows = {name: part.nonzero().flatten() for name, part in (("train", ~test & ~validation), ("validation", validation), ("test", test))}
            rows = {name: part for name, part in rows.items() if len(part)}
            rule = f"stratified folds by hash of the path: fold {self.fold} of {self.folds} tests, the next validates"
        else:
            rule = "by column" if self.manifest else "by folder"
        if "train" not in rows:
            raise DataError(f"{root}: {len(paths)} files leave none to train on")
        splits = labelled_files(root=root, paths=paths, labels=labels, splits=rows, input="audio")
        train = splits["train"]
        self.audio.fit(_spread(train, FIT_CLIPS))
        return OpenData(
            inputs={"audio": self.audio},
            targets={"label": ClassCodec(name="label", labels=train.names, counts=train.counts())},
            splits=splits,
            notes={"source": f"sound files of {Path(root).name}", "split": f"{rule}; {', '.join(f'{name} {len(part)}' for name, part in splits.items())}"},
        )

    def _from_files(self, root: Path) -> tuple[list[str], list[str], dict[str, Tensor] | None]:
        paths = find_files(root, AudioCodec.suffixes)
        if not paths:
            raise DataError(f"{root} holds no sound file ({', '.join(AudioCodec.suffixes)})")
        rows = folder_splits(paths)
        if self.label_from is LabelFrom.NAME:
            found = [self.pattern.match(path.rsplit("/", 1)[-1]) for path in paths]
            labels = [match.group(1) or "" if match else "" for match in found]
            hint = f"no match of pattern={self.pattern.pattern!r}"
        else:
            depth = 0 if rows is None else 1
            labels = [parts[depth] if len(parts := path.split("/")) > depth + 1 else "" for path in paths]
            hint = "no class's folder; data.label_from=name takes labels from file names"
        if bare := [path for path, label in zip(paths, labels, strict=True) if not label]:
            raise DataError(f"{root}: {len(bare)} of {len(paths)} files have no label, e.g. {bare[0]}: {hint}")
        return paths, labels, rows

    def _from_manifest(self, root: Path) -> tuple[list[str], list[str], dict[str, Tensor] | None]:
        assert self.manifest is not None
        file = root / home(self.manifest)
        if not file.is_file():
            raise DataError(f"no manifest at {file}")
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t" if file.suffix.lower() in (".tsv", ".tab") else ",")
            wanted = [self.path_column, self.label_column, *([self.split_column] if self.split_column else [])]
            if absent := [column for column in wanted if column not in (reader.fieldnames or [])]:
                raise DataError(f"{file}: its header lacks {', '.join(absent)}; it has {', '.join(reader.fieldnames or ['nothing'])}")
            table = [[row[column] or "" for column in wanted] for row in reader]
        if not table:
            raise DataError(f"{file} lists no file")
        if bare := [number for number, row in enumerate(table, 2) if not row[0] or not row[1]]:
            raise DataError(f"{file}: {len(bare)} rows without a path or a label, the first in line {bare[0]}")
        paths, labels = [row[0] for row in table], [row[1] for row in table]
        if self.split_column is None:
            return paths, labels, None
        named = [SPLIT_FOLDERS.get(row[2].strip().lower()) for row in table]
        if None in named:
            raise DataError(f"{file}: column {self.split_column!r} holds {table[named.index(None)][2]!r}; expected train, validation or test")
        return (
            paths,
            labels,
            {name: torch.tensor([row for row, split in enumerate(named) if split == name]) for name in ("train", "validation", "test") if name in named},
        )


def _spread(split: FileSplit, count: int) -> list[Path]:
    """Files spread evenly over a split."""
    rows = range(len(split)) if len(split) <= count else [len(split) * place // count for place in range(count)]
    return [split.read(row)["audio"] for row in rows]
