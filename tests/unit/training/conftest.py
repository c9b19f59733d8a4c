"""Fixtures for tests of the training."""

from collections.abc import Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem


@pytest.fixture
def empty_store() -> Iterator[None]:
    """``memory://`` with nothing of another test."""
    _clear()
    yield
    _clear()


def _clear() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
