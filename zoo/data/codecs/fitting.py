"""Fitting on samples some of which cannot be used."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from zoo.errors import DataError

Raw = TypeVar("Raw")
Found = TypeVar("Found")


def usable(make: Callable[[Raw], Found], raws: Iterable[Raw]) -> Iterator[Found]:
    """What can be made of samples. The others are left out of a fit without a word: the loader names them, and stops where they are too many."""
    for raw in raws:
        try:
            found = make(raw)
        except DataError:
            continue
        yield found
