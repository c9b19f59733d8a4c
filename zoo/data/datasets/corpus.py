"""Running text for language models: files of any size, cut into windows that stay within a document."""

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.base import OpenData, Tokenizer
from zoo.data.codecs.text import TextCodec
from zoo.data.codecs.token import NextTokenCodec
from zoo.data.folders import cache_folder, ways
from zoo.data.splits import check_fractions, fraction
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokens import TokenFile, digest_of, prepared
from zoo.errors import DataError
from zoo.files import home
from zoo.registry import DATASETS
from zoo.specs import DataSpec

TEXT, NEXT = "text", "next"
LINES = (".jsonl", ".ndjson")
TEXTS = (".txt", ".md", ".text", *LINES)
SPLITS = ("train", "validation", "test")


class Documents(StrEnum):
    """What ends a document of a plain file."""

    FILE = "file"
    PARAGRAPH = "paragraph"
    LINE = "line"


class SplitBy(StrEnum):
    HASH = "hash"
    TAIL = "tail"


class Document(NamedTuple):
    """Where a document stands: the file's number, and its bytes."""

    file: int
    start: int
    stop: int


class DocumentList:
    """Documents in flat memory, 24 bytes each: a corpus may have very many."""

    def __init__(self) -> None:
        self._numbers = array("q")

    def append(self, document: Document) -> None:
        self._numbers.extend(document)

    def __len__(self) -> int:
        return len(self._numbers) // 3

    def __getitem__(self, place: int) -> Document:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return Document(*self._numbers[3 * place : 3 * place + 3])

    def __iter__(self) -> Iterator[Document]:
        return (self[place] for place in range(len(self)))


@DATASETS.register("corpus")
class Corpus:
    """Plain text files and JSON lines as documents, for language models (model/head=next_token).

    Files are read document by document and tokenised once, into a file of zoo's cache that is memory-mapped: neither the text nor its tokens have to fit
    into memory (data.cache=none), and windows are shuffled across all of it, with exact resume. Windows are neighbours within a document, so that
    each token is told once; those of several documents share a row with data.packing=flat, and do not see each other.

    Args:
        path: a file, or a folder that is searched for .txt, .md and .jsonl; in order of their names.
        text: column of JSON lines.
        documents: what a document of a plain file is: the file, a paragraph (up to an empty line) or a line.
        tokenizer: trained on the documents that train where it is not yet; null trains byte-level BPE with at most 8,000 tokens.
        fit_bytes: of the documents that a tokenizer is trained on, from the first; null takes all.
        max_length: tokens of a window.
        split_by: hash deals out whole documents by what they hold; tail takes the last part of every document, cut at the end of a line or sentence.
        validation: part of the documents, or of each, that validates.
        test: part that tests.
    """

    def __init__(
        self,
        *,
        path: str,
        text: str = "text",
        documents: Documents = Documents.FILE,
        tokenizer: Tokenizer | None = None,
        fit_bytes: int | None = 50_000_000,
        max_length: int = 256,
        split_by: SplitBy = SplitBy.HASH,
        validation: float = 0.05,
        test: float = 0.05,
    ) -> None:
        check_fractions(validation, test)
        if fit_bytes is not None and fit_bytes < 1:
            raise ValueError(f"fit_bytes={fit_bytes} leaves a tokenizer nothing to learn from; choose null for all, or e.g. 50000000")
        self.path, self.column, self.documents, self.fit_bytes, self.split_by = path, text, documents, fit_bytes, split_by
        self.validation, self.test = validation, test
        self.codec = TextCodec(name=TEXT, tokenizer=tokenizer if tokenizer is not None else BpeTokenizer(), max_length=max_length)
        self.target = NextTokenCodec(name=NEXT, text=self.codec)

    def sketch(self) -> DataSpec:
        return DataSpec(inputs=(self.codec.spec,), targets=(self.target.spec,))

    def open(self) -> OpenData:
        files = self._files()
        reader = Reader(files, self.column, self.documents)
        chosen = self._split(reader)
        if not len(chosen["train"]):
            raise DataError(f"{self.path}: no document of {sum(map(len, chosen.values()))} is left to train on; make the other splits smaller")
        self.codec.fit(list(self._sample(reader, chosen["train"])))
        facts = {
            "content": digest_of(files),
            "column": self.column,
            "documents": str(self.documents),
            "split_by": str(self.split_by),
            "parts": [self.validation, self.test],
        }
        folder = prepared(
            cache_folder("corpora"), facts, {name: self._texts(reader, found) for name, found in chosen.items() if len(found)}, self.codec.tokenizer
        )
        splits = {name: CorpusSplit(folder, name, self.codec.max_length, reader, chosen[name]) for name in SPLITS if len(chosen[name])}
        if empty := [name for name, split in splits.items() if not len(split)]:
            raise DataError(f"{self.path}: the documents of the split {empty[0]!r} have no two tokens")
        told = ", ".join(f"{name} {len(chosen[name])}" for name in splits)
        rule = "the tail of each document" if self.split_by is SplitBy.TAIL else "hash of the document"
        return OpenData(
            inputs={TEXT: self.codec},
            targets={NEXT: self.target},
            splits=dict(splits),
            notes={"source": Path(self.path).name, "split": f"by {rule}: test {self.test:g}, validation {self.validation:g}; documents: {told}"},
        )

    def _files(self) -> list[Path]:
        """Raises:
        DataError: where there is none.
        """
        path = home(self.path)
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise DataError(f"no file or folder at {path}\n  way out: {ways(path, 'data.path=FILE')}")
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in TEXTS and file.is_file())
        if not found:
            raise DataError(f"{path} holds no text: looked for {', '.join(TEXTS)}")
        return found

    def _split(self, reader: "Reader") -> dict[str, DocumentList]:
        """Documents of each split, in their order."""
        chosen = {name: DocumentList() for name in SPLITS}
        for document in reader.documents():
            if self.split_by is SplitBy.HASH:
                part = fraction(reader.text(document))
                chosen["test" if part < self.test else "validation" if part < self.test + self.validation else "train"].append(document)
            else:
                for name, piece in zip(SPLITS, reader.cut(document, (1 - self.validation - self.test, 1 - self.test)), strict=True):
                    if piece.stop > piece.start:
                        chosen[name].append(piece)
        return chosen

    def _sample(self, reader: "Reader", documents: DocumentList) -> Iterator[str]:
        """Texts for a tokenizer."""
        left = self.fit_bytes
        for document in documents:
            if left is not None and left <= 0:
                return
            text = reader.text(document)
            yield text if left is None else text[:left]
            left = None if left is None else left - len(text.encode("utf-8", "replace"))

    def _texts(self, reader: "Reader", documents: DocumentList) -> Callable[[], Iterator[tuple[int, str]]]:
        return lambda: ((number, reader.text(document)) for number, document in enumerate(documents))


@dataclass(frozen=True)
class Reader:
    """Documents of files.

    Args:
        files: in order.
        column: of JSON lines.
        kind: what a document of a plain file is.
    """

    files: Sequence[Path]
    column: str
    kind: Documents

    def documents(self) -> Iterator[Document]:
        """All that hold anything. Files are read once, line by line.

        Raises:
            DataError: where a file cannot be read.
        """
        for number, path in enumerate(self.files):
            try:
                size = path.stat().st_size
                if self.kind is Documents.FILE and path.suffix.lower() not in LINES:
                    if size:
                        yield Document(number, 0, size)
                    continue
                yield from self._within(number, path)
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error}") from error

    def _within(self, number: int, path: Path) -> Iterator[Document]:
        by_line = path.suffix.lower() in LINES or self.kind is Documents.LINE
        start = place = 0
        holds = False
        with path.open("rb") as stream:
            for line in stream:
                empty = not line.strip()
                if by_line and not empty:
                    yield Document(number, place, place + len(line))
                elif not by_line and empty:
                    if holds:
                        yield Document(number, start, place)
                    start, holds = place + len(line), False
                holds = holds or not empty
                place += len(line)
        if not by_line and holds:
            yield Document(number, start, place)

    def text(self, document: Document) -> str:
        """Raises:
        DataError: for what is not UTF-8, no JSON, or lacks the column; with the file and the place.
        """
        path = self.files[document.file]
        with path.open("rb") as stream:
            stream.seek(document.start)
            content = stream.read(document.stop - document.start)
        where = f"{path}, byte {document.start:,}"
        try:
            text = content.decode("utf-8-sig" if document.start == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8: {error}; convert it, e.g. with iconv") from error
        if path.suffix.lower() not in LINES:
            return text.rstrip("\n") if self.kind is not Documents.FILE else text
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get(self.column), str):
            has = f"; it has {', '.join(map(str, row))}" if isinstance(row, dict) else ""
            raise DataError(f"{where}: no text in column {self.column!r}{has}; data.text=COLUMN names it")
        return str(row[self.column])

    def cut(self, document: Document, parts: tuple[float, float]) -> list[Document]:
        """Three pieces of a document of a plain file, cut behind the last line's end, or space, before each part's.

        Raises:
            DataError: for JSON lines, whose rows cannot be cut.
        """
        path = self.files[document.file]
        if path.suffix.lower() in LINES:
            raise DataError(f"{path}: rows of JSON lines are not cut; data.split_by=hash")
        with path.open("rb") as stream:
            stream.seek(document.start)
            content = stream.read(document.stop - document.start)
        bounds = [0]
        for part in parts:
            wanted = round(len(content) * part)
            stop = content.rfind(b"\n", bounds[-1], wanted) + 1 or content.rfind(b" ", bounds[-1], wanted) + 1
            bounds.append(max(bounds[-1], stop) if wanted < len(content) else len(content))
        bounds.append(len(content))
        return [Document(document.file, document.start + start, document.start + stop) for start, stop in pairwise(bounds)]


class CorpusSplit:
    """Windows of a split's documents as samples.

    Args:
        folder: of its tokens.
        name: of the split.
        length: tokens of a window.
        reader: for what documents are called.
        documents: of the split.
    """

    def __init__(self, folder: Path, name: str, length: int, reader: Reader, documents: DocumentList) -> None:
        self.folder, self.name, self.length, self.reader, self.documents = folder, name, length, reader, documents
        self._open()

    def _open(self) -> None:
        self.tokens = TokenFile(self.folder, self.name)
        self.first, self.count = self.tokens.windows(self.length)

    def __len__(self) -> int:
        return len(self.first)

    def read(self, index: int) -> Mapping[str, Any]:
        window = self.tokens.read(int(self.first[index]), int(self.count[index]))
        return {TEXT: window, NEXT: window}

    def describe(self, index: int) -> str:
        first = int(self.first[index])
        place = int(np.searchsorted(self.tokens.starts, first, side="right")) - 1
        document = self.documents[int(self.tokens.numbers[place])]
        path = self.reader.files[document.file]
        return f"{path}, document from byte {document.start:,}, tokens from {first - int(self.tokens.starts[place]):,}"

    def lengths(self) -> dict[str, Tensor]:
        return {TEXT: torch.from_numpy(self.count)}

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes map the file for themselves."""
        return {name: value for name, value in self.__dict__.items() if name not in ("tokens", "first", "count")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
