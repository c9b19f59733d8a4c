"""Batches that are made ahead. The copies themselves need an accelerator; order, errors, the cursor and the thread's end do not."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from tests.unit.data.test_loader import loader, opened
from zoo.data.ahead import ahead
from zoo.data.loader import Loader
from zoo.errors import DataError
from zoo.settings import LoaderSettings
from zoo.structs import Batch

CPU = torch.device("cpu")


def batch(number: int) -> list[Batch]:
    return [Batch({}, {}, ids=torch.tensor([number]), valid=torch.ones(1, dtype=torch.bool))]


def threads() -> int:
    return sum(thread.name == "zoo-ahead" for thread in threading.enumerate())


def test_they_come_in_order_and_only_so_many_are_ahead() -> None:
    made: list[int] = []

    def source() -> Iterator[list[Batch]]:
        for number in range(20):
            made.append(number)
            yield batch(number)

    seen = []
    for parts in ahead(source(), CPU, depth=2):
        seen.append(int(parts[0].ids))
        time.sleep(0.005)
        assert made[-1] <= seen[-1] + 4  # two in the queue, one in the thread's hand, one just asked for
    assert seen == list(range(20))
    assert threads() == 0


def test_an_error_is_raised_at_its_place() -> None:
    def source() -> Iterator[list[Batch]]:
        yield batch(0)
        yield batch(1)
        raise DataError("the third is damaged")

    batches = ahead(source(), CPU)
    assert [int(next(batches)[0].ids) for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match="the third is damaged"):
        next(batches)
    assert threads() == 0


def test_who_stops_early_leaves_no_thread() -> None:
    batches = ahead((batch(number) for number in range(1000)), CPU)
    next(batches)
    assert threads() == 1
    batches.close()  # type: ignore[attr-defined]
    assert threads() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cursor_counts_what_was_handed_out(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """R4: the same batches as without it, and a loader that goes on from the state after any of them misses none."""
    monkeypatch.setattr("zoo.data.loader.PINNED", ("cpu",))

    def prefetching() -> Loader:
        settings = LoaderSettings(batch_size=4, workers=workers)
        return Loader(data=opened(17), split="train", settings=settings, augment={}, seed=3, training=True, batch_size=4, device=CPU)

    plain = loader(17, batch_size=4)
    wanted = [[parts[0].ids.tolist() for parts in plain] for _ in range(2)]
    whole = prefetching()
    assert [[parts[0].ids.tolist() for parts in whole] for _ in range(2)] == wanted
    first = prefetching()
    for place, _ in enumerate(first):
        if place == 1:
            break
    second = prefetching()
    second.load_state_dict(first.state_dict())
    assert [parts[0].ids.tolist() for parts in second] == wanted[0][2:]
    assert second.state_dict() == {"epoch": 1, "batch": 0}
