"""MovieLens (Harper and Konstan, 2015, https://doi.org/10.1145/2827872), as published and as RecBole keeps it.

Letters: U users, E events (ratings).
"""

import csv
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.base import OpenData, Split
from zoo.data.codecs.history import Catalogue, HistoryCodec, ItemCodec
from zoo.data.folders import ways
from zoo.data.strings import Strings
from zoo.errors import DataError
from zoo.files import home
from zoo.registry import DATASETS
from zoo.specs import DataSpec

HISTORY, ITEM = "history", "item"
SKETCH_ITEMS = 100


class LongHistories(StrEnum):
    LAST = "last"
    WINDOWS = "windows"


@DATASETS.register("movielens")
class MovieLens:
    """Who watched what, in order of time; the next item is to be told from those before.

    Leave one out by time: of each user's events the last tests, the one before validates, the rest trains. Events of the same second keep
    the order of the file. A user is one training sequence, in which every position predicts the one after it. Items are numbered over
    the whole file, since a ranking is over the whole catalogue.

    Layouts: ml-100k (`u.data`, `u.item`), ml-1m and ml-10m (`ratings.dat`, `movies.dat`), ml-latest and ml-20m on (`ratings.csv`, `movies.csv`), RecBole
    (`*.inter`, `*.item`, headers `name:type`).

    Args:
        root: folder with the files of one layout.
        max_length: positions of a history; older ones are cut off.
        min_rating: events with a lower rating are left out.
        min_events: users with fewer events are left out; 3 or more, since two of them are kept aside.
        long_histories: of longer training sequences, keep the last part; or windows, which cuts them into parts without overlap, so that every event trains.
    """

    def __init__(
        self, *, root: str, max_length: int = 200, min_rating: float = 0.0, min_events: int = 3, long_histories: LongHistories = LongHistories.WINDOWS
    ) -> None:
        if min_events < 3:
            raise ValueError(f"min_events={min_events}: one event tests and one validates, so that 3 or more are needed")
        self.root, self.max_length, self.min_rating, self.min_events, self.long_histories = root, max_length, min_rating, min_events, long_histories
        self.history = HistoryCodec(name=HISTORY, catalogue=Catalogue(items=[str(item) for item in range(SKETCH_ITEMS)]), max_length=max_length)

    def sketch(self) -> DataSpec:
        target = ItemCodec(name=ITEM, catalogue=self.history.catalogue, history=HISTORY, max_length=self.max_length)
        return DataSpec(inputs=(self.history.spec,), targets=(target.spec,))

    def open(self) -> OpenData:
        folder = home(self.root)
        events, names = read_events(folder), read_titles(folder)
        kept = events.ratings >= self.min_rating
        users, user_numbers = np.unique(events.users[kept], return_inverse=True)
        items, item_numbers = np.unique(events.items[kept], return_inverse=True)
        if not len(users):
            raise DataError(f"{folder}: no event has a rating of min_rating={self.min_rating} or more")
        order = np.lexsort((np.arange(int(kept.sum())), events.times[kept], user_numbers))
        sequences = torch.from_numpy(item_numbers[order] + 1)  # E
        counts = np.bincount(user_numbers)
        enough = np.nonzero(counts >= self.min_events)[0]
        if not len(enough):
            raise DataError(f"{folder}: no user has min_events={self.min_events} events")
        ends = torch.from_numpy(np.cumsum(counts))
        spans = torch.stack([ends - torch.from_numpy(counts), ends], 1)[torch.from_numpy(enough)]  # U 2
        raw_users = Strings(str(users[number]) for number in enough)
        catalogue = self._catalogue(sequences, spans, [str(item) for item in items], names, list(raw_users))
        inputs = {HISTORY: HistoryCodec(name=HISTORY, catalogue=catalogue, max_length=self.max_length)}
        targets = {ITEM: ItemCodec(name=ITEM, catalogue=catalogue, history=HISTORY, max_length=self.max_length)}
        windows = self.max_length if self.long_histories is LongHistories.WINDOWS else None
        splits: dict[str, Split] = {
            "train": TrainingSequences(sequences, spans, raw_users, windows),
            "validation": HeldOut(sequences, spans - torch.tensor([0, 1]), raw_users),
            "test": HeldOut(sequences, spans, raw_users),
        }
        notes = {
            "source": f"MovieLens, {folder.name}; GroupLens's licence: not to be redistributed",
            "counts": f"{len(enough)} of {len(users)} users, {len(items)} items, {int(counts[enough].sum())} events",
            "split": "leave one out by time: each user's last event tests, the one before validates, the rest trains; ties in the file's order",
            "unseen": "an unknown user, or a history without a known item, is answered with the items that most training users met; unknown items are left out",
            "users": "the histories kept for prediction end before the test event, so that predictions are those that the test measured",
        }
        return OpenData(inputs=inputs, targets=targets, splits=splits, notes=notes)

    def _catalogue(self, sequences: Tensor, spans: Tensor, items: list[str], names: Mapping[str, str], users: list[str]) -> Catalogue:
        training = torch.cat([sequences[start : stop - 2] for start, stop in spans.tolist()])
        met = training.bincount(minlength=len(items) + 1)[1:]
        popular = ((-met).argsort(stable=True) + 1)[:100].tolist()
        histories = {user: sequences[start : stop - 1].tolist() for user, (start, stop) in zip(users, spans.tolist(), strict=True)}
        titles = [names.get(item, item) for item in items] if names else []
        return Catalogue(items=items, titles=titles, popular=popular, users=histories)


class TrainingSequences:
    """One sample a user, or one a window of a user: all but the last two events; each position predicts the one after it."""

    def __init__(self, sequences: Tensor, spans: Tensor, users: Strings, window: int | None) -> None:
        self.sequences, self.users = sequences, users
        rows = []
        for user, (start, stop) in enumerate((spans - torch.tensor([0, 2])).tolist()):
            if stop - start < 2:  # nothing follows a single event
                continue
            # windows of `window` transitions, counted from the newest
            cuts = [start] if window is None else [max(start, last - window) for last in range(stop - 1, start, -window)]
            ends = [stop] if window is None else list(range(stop, start + 1, -window))
            rows += [(user, cut, end) for cut, end in zip(cuts, ends, strict=True)]
        if not rows:
            raise DataError("no user has two events to train on, besides the two that are kept aside; lower data.min_rating")
        self.rows = torch.tensor(rows)  # samples 3

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Mapping[str, Any]:
        _, start, stop = self.rows[index].tolist()
        events = self.sequences[start:stop]
        return {HISTORY: events[:-1], ITEM: {"next": events[1:], "seen": events[:0]}}

    def describe(self, index: int) -> str:
        return f"user {self.users[int(self.rows[index, 0])]}"


class HeldOut:
    """One sample a user: everything before the last event of the span, which is to be told; what was met before is left out of rankings."""

    def __init__(self, sequences: Tensor, spans: Tensor, users: Strings) -> None:
        self.sequences, self.spans, self.users = sequences, spans, users

    def __len__(self) -> int:
        return len(self.spans)

    def read(self, index: int) -> Mapping[str, Any]:
        start, stop = self.spans[index].tolist()
        history, truth = self.sequences[start : stop - 1], self.sequences[stop - 1]
        following = torch.zeros_like(history)
        following[-1] = truth
        seen = history.unique()
        return {HISTORY: history, ITEM: {"next": following, "seen": seen[seen != truth]}}

    def describe(self, index: int) -> str:
        return f"user {self.users[index]}"


# --- files ------------------------------------------------------------------------------------------------------------------------


class Events:
    """Ratings as columns, E each; users and items as numbers where all are, else as text."""

    def __init__(self, rows: Iterator[tuple[str, str, str, str]], path: Path) -> None:
        users, items, ratings, times = [], [], [], []
        for line, (user, item, rating, time) in enumerate(rows, 1):
            try:
                ratings.append(float(rating))
                times.append(float(time))
            except ValueError:
                raise DataError(f"{path}: event {line}: rating {rating!r} and time {time!r} have to be numbers") from None
            users.append(user)
            items.append(item)
        if not users:
            raise DataError(f"{path} holds no event")
        self.users, self.items = _identifiers(users), _identifiers(items)
        self.ratings: NDArray[np.float64] = np.array(ratings)
        self.times: NDArray[np.float64] = np.array(times)


def _identifiers(raw: list[str]) -> NDArray[Any]:
    return (
        np.array([int(entry) for entry in raw])
        if all(entry.isdecimal() and (entry == "0" or entry[0] != "0") and len(entry) < 18 for entry in raw)
        else np.array(raw)
    )


def read_events(folder: Path) -> Events:
    """Events of whichever layout the folder has.

    Raises:
        DataError: where it has none.
    """
    if (path := folder / "u.data").is_file():
        return Events(_fields(path, "\t", 4), path)
    if (path := folder / "ratings.dat").is_file():
        return Events(_fields(path, "::", 4), path)
    if (path := folder / "ratings.csv").is_file():
        return Events(_named(path, ",", ("userId", "movieId", "rating", "timestamp")), path)
    if events := _only(folder, "*.inter"):
        return Events(_named(events, "\t", ("user_id", "item_id", "rating", "timestamp")), events)
    raise DataError(
        f"{folder} holds no MovieLens data: none of u.data, ratings.dat, ratings.csv, *.inter is there\n"
        f"  way out: {ways(folder, 'data.root=FOLDER (an unpacked MovieLens archive)')}"
    )


def read_titles(folder: Path) -> dict[str, str]:
    """Raw item id -> title; empty where there is no file of items."""
    if (path := folder / "u.item").is_file():
        return {row[0]: row[1] for row in _fields(path, "|", 2)}
    if (path := folder / "movies.dat").is_file():
        return {row[0]: row[1] for row in _fields(path, "::", 2)}
    if (path := folder / "movies.csv").is_file():
        return {row[0]: row[1] for row in _named(path, ",", ("movieId", "title"))}
    if items := _only(folder, "*.item"):
        return {row[0]: row[1] for row in _named(items, "\t", ("item_id", "movie_title"))}
    return {}


def _only(folder: Path, pattern: str) -> Path | None:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        raise DataError(f"{folder} holds several {pattern}: {', '.join(path.name for path in found)}; keep one data set a folder")
    return found[0] if found else None


def _fields(path: Path, separator: str, count: int) -> Iterator[Any]:
    """The first fields of each line. The older archives are in Latin-1."""
    with path.open(encoding="latin-1", newline="") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            fields = text.rstrip("\r\n").split(separator)
            if len(fields) < count:
                raise DataError(f"{path}:{line}: {len(fields)} fields, expected {count} separated by {separator!r}")
            yield fields[:count]


def _named(path: Path, separator: str, columns: tuple[str, ...]) -> Iterator[Any]:
    """Columns by the names of the header; RecBole's have their type after a colon."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE)
        header = [name.split(":")[0] for name in next(rows, [])]
        if absent := [column for column in columns if column not in header]:
            raise DataError(f"{path}: its header lacks {', '.join(absent)}; it has {', '.join(header) or 'nothing'}")
        places = [header.index(column) for column in columns]
        for line, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise DataError(f"{path}:{line}: {len(row)} fields, the header has {len(header)}")
            yield [row[place] for place in places]
