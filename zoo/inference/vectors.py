"""Vectors of a model in a file, and the nearest among them. Imports no torch.

``NAME.npy`` is the matrix as numpy writes it, float32, with the rows' names beside it in ``NAME.npy.json`` (a list); ``NAME.parquet`` has the columns
``input`` and ``vector``.

Letters: N vectors, D width, Q queries, K neighbours.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ZooError, did_you_mean
from zoo.files import home, write_whole

SUFFIXES = (".npy", ".parquet")
BLOCK = 1024
"""Queries that are compared with all vectors at once."""


class Index(StrEnum):
    EXACT = "exact"
    HNSW = "hnsw"


@dataclass(frozen=True)
class Vectors:
    """Rows with names.

    Args:
        names: N, what each vector is of.
        values: N D float32.
    """

    names: list[str]
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def place(self, name: str) -> int:
        """The row of a name.

        Raises:
            ZooError: where there is none.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise ZooError(
                f"no vector of {name!r} among {len(self)}; {did_you_mean(name, self.names) if len(self) <= 100_000 else 'names are exact'}"
            ) from None


def checked_path(text: str) -> Path:
    """Where vectors may be written or read.

    Raises:
        ZooError: for an ending that is no format of vectors, and for Parquet without its package.
    """
    path = home(text)
    if path.suffix not in SUFFIXES:
        raise ZooError(f"{text}: vectors are kept in {' or '.join(SUFFIXES)}, and the ending says which\n  way out: {path.with_suffix('.npy')}")
    if path.suffix == ".parquet":
        _parquet(path)
    return path


def names_of(path: Path) -> Path:
    """The file of names beside a matrix."""
    return path.with_name(f"{path.name}.json")


def save_vectors(path: Path, vectors: Vectors) -> None:
    """Write them, and the folder if it is not there.

    Raises:
        ZooError: where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            arrow, parquet = _parquet(path)
            flat = arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.values.ravel()), vectors.values.shape[1])
            parquet.write_table(arrow.table({"input": arrow.array(vectors.names, arrow.string()), "vector": flat}), path)
            return
        np.save(path, vectors.values, allow_pickle=False)
        write_whole(names_of(path), json.dumps(vectors.names, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ZooError(f"{path}: cannot be written ({error.strerror})") from error


def load_vectors(path: Path) -> Vectors:
    """What ``save_vectors`` wrote; a matrix without names beside it has its rows' numbers for names.

    Raises:
        ZooError: where there is no such file, or it holds no such vectors.
    """
    if not path.is_file():
        raise ZooError(f"{path}: no such file\n  way out: zoo predict MODEL ... --vectors {path}")
    try:
        names, values = _read_parquet(path) if path.suffix == ".parquet" else _read_npy(path)
    except (OSError, ValueError, KeyError) as error:
        raise ZooError(f"{path}: cannot be read as vectors: {error}\n  way out: zoo predict MODEL ... --vectors {path} writes it again") from error
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating) or len(names) != len(values):
        raise ZooError(f"{path}: holds {values.dtype} of shape {values.shape} for {len(names)} names, where a matrix of numbers, one row a name, was expected")
    if not np.isfinite(values).all():
        raise ZooError(f"{path}: has vectors that are not finite, which are near nothing\n  way out: zoo predict MODEL ... --vectors {path} writes it again")
    return Vectors(names, values.astype(np.float32, copy=False))


def _read_npy(path: Path) -> tuple[list[str], np.ndarray]:
    values = np.load(path, allow_pickle=False)
    if not names_of(path).is_file():
        return [str(row) for row in range(len(values))], values
    names = json.loads(names_of(path).read_text(encoding="utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{names_of(path).name} is no list of names")
    return names, values


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    _, parquet = _parquet(path)
    table = parquet.read_table(path, columns=["input", "vector"])
    rows = table["vector"].to_pylist()
    return [str(name) for name in table["input"].to_pylist()], np.array(rows, dtype=np.float32).reshape(len(rows), -1)


def _parquet(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ZooError(f"{path}: Parquet needs pyarrow\n  way out 1: pip install 'zoo-ml[tables]'\n  way out 2: {path.with_suffix('.npy')}") from error
    return pyarrow, pyarrow.parquet


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, so that products are cosines; rows of zeros stay, and are near nothing."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    divided: np.ndarray = values / np.where(lengths > 0, lengths, 1)
    return divided


def nearest(
    vectors: np.ndarray, queries: np.ndarray, count: int, *, leave_out: Sequence[int] | None = None, index: Index = Index.EXACT
) -> list[list[tuple[int, float]]]:
    """For each query its nearest vectors as (row, cosine), the nearest first; equal ones by their rows.

    Args:
        vectors: N D.
        queries: Q D.
        count: neighbours K of each; fewer where there are fewer vectors.
        leave_out: a row for each query that is no answer to it, because it is the query itself.
        index: exact compares each query with each vector; hnsw walks a graph (usearch; Malkov and Yashunin, 2016, https://arxiv.org/abs/1603.09320), which
            is faster where there are many queries and may miss some.

    Raises:
        ZooError: where widths differ, or usearch is not installed.
    """
    if vectors.shape[1] != queries.shape[1]:
        raise ZooError(f"vectors of {vectors.shape[1]} numbers cannot be compared with queries of {queries.shape[1]}; both have to come from one model")
    vectors, queries = unit(vectors), unit(queries)
    out = [-1] * len(queries) if leave_out is None else list(leave_out)
    wanted = min(len(vectors), count + (leave_out is not None))
    found = _graph(vectors, queries, wanted) if index is Index.HNSW else _exact(vectors, queries, wanted)
    return [[entry for entry in ranked if entry[0] != own][:count] for ranked, own in zip(found, out, strict=True)]


def _exact(vectors: np.ndarray, queries: np.ndarray, count: int) -> list[list[tuple[int, float]]]:
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ vectors.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        best = np.take_along_axis(scores, rows, axis=1)
        found += [list(zip(places, cosines, strict=True)) for places, cosines in zip(rows.tolist(), best.tolist(), strict=True)]
    return found


def _graph(vectors: np.ndarray, queries: np.ndarray, count: int) -> list[list[tuple[int, float]]]:
    try:
        from usearch.index import Index as Graph
    except ImportError as error:
        raise ZooError("--index hnsw needs usearch\n  way out 1: pip install 'zoo-ml[search]'\n  way out 2: --index exact") from error
    graph = Graph(ndim=vectors.shape[1], metric="ip", dtype="f32", expansion_search=max(64, 2 * count))
    graph.add(np.arange(len(vectors), dtype=np.uint64), np.ascontiguousarray(vectors))
    found = []
    for query in queries:
        matches = graph.search(np.ascontiguousarray(query), count)
        found.append([(int(match.key), 1 - float(match.distance)) for match in matches])
    return found
