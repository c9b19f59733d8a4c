"""Many strings as one buffer: forked loader processes then share them, where a list of Python objects would be copied bit by bit."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


class Strings(Sequence[str]):
    """An immutable sequence of strings, kept as UTF-8 bytes and offsets.

    Args:
        values: the strings; lone surrogates survive (file names that are not UTF-8, JSON that escapes half a character).
    """

    def __init__(self, values: Iterable[str]) -> None:
        parts = [value.encode("utf-8", "surrogatepass") for value in values]
        self._offsets: NDArray[np.int64] = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=self._offsets[1:])
        self._bytes: NDArray[np.uint8] = np.frombuffer(b"".join(parts), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._bytes[self._offsets[index] : self._offsets[index + 1]].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
