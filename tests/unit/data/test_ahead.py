"""Batches that are made ahead. The copies themselves need an accelerator; order, errors, the cursor and the thread's end do not."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import make_trainer
from tests.unit.data.test_loader import loader
from tests.unit.training.test_resume import everything, stop_at
from zoo.data import ahead as module
from zoo.data.ahead import ahead, fetch
from zoo.errors import DataError
from zoo.structs import Batch
from zoo.training.checkpoint import newest_checkpoint

CPU = torch.device("cpu")


class Numbers:
    """Batches that hold their own number."""

    def __init__(self, size: int, fails_at: int = -1) -> None:
        self.size, self.fails_at, self.made = size, fails_at, 0

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self.made}

    def __iter__(self) -> Iterator[list[Batch]]:
        for number in range(self.size):
            if number == self.fails_at:
                raise DataError("this one is damaged")
            self.made += 1
            yield [Batch({}, {}, ids=torch.tensor([number]), valid=torch.ones(1, dtype=torch.bool))]


def threads() -> int:
    return sum(thread.name == "zoo-ahead" for thread in threading.enumerate())


def test_they_come_in_order_with_their_cursors_and_only_so_many_are_ahead() -> None:
    source = Numbers(20)
    seen = []
    for fetched in ahead(source, CPU, depth=2):
        seen.append(int(fetched.parts[0].ids))
        assert fetched.cursor == {"batch": len(seen)}
        time.sleep(0.005)
        assert source.made <= len(seen) + 4  # two in the queue, one in the thread's hand, one just asked for
    assert seen == list(range(20))
    assert threads() == 0


def test_an_error_is_raised_at_its_place() -> None:
    batches = ahead(Numbers(5, fails_at=2), CPU)
    assert [int(next(batches).parts[0].ids) for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match="this one is damaged"):
        next(batches)
    assert threads() == 0


def test_who_stops_early_leaves_no_thread() -> None:
    batches = ahead(Numbers(1000), CPU)
    next(batches)
    assert threads() == 1
    batches.close()
    assert threads() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cursor_counts_what_was_handed_out(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """R4: the same batches as without it, and a loader that goes on from the cursor of any of them misses none."""
    plain = loader(17, batch_size=4)
    wanted = [[parts[0].ids.tolist() for parts in plain] for _ in range(2)]
    monkeypatch.setattr(module, "PINNED", ("cpu",))
    whole = loader(17, batch_size=4, workers=workers)
    assert [[fetched.parts[0].ids.tolist() for fetched in fetch(whole, CPU)] for _ in range(2)] == wanted
    first, second = (loader(17, batch_size=4, workers=workers) for _ in range(2))
    fetching = fetch(first, CPU)
    cursor = [next(fetching) for _ in range(2)][-1].cursor
    fetching.close()
    second.load_state_dict(cursor)
    assert [fetched.parts[0].ids.tolist() for fetched in fetch(second, CPU)] == wanted[0][2:]
    assert second.state_dict() == {"epoch": 1, "batch": 0}


@pytest.mark.parametrize("step", [3, 5, 9])
def test_a_run_that_fetches_ahead_goes_on_exactly(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R4: stopped within an epoch, at its end, and behind it; the same bits as a run that fetches when it needs."""
    whole = make_trainer(tmp_path / "whole")
    whole.fit()
    monkeypatch.setattr(module, "PINNED", ("cpu",))
    first, second = make_trainer(tmp_path / "run"), make_trainer(tmp_path / "run")
    stop_at(first, step)
    first.fit()
    assert threads() == 0
    second.load(newest_checkpoint(tmp_path / "run")[0])
    second.fit()
    found, wanted = everything(second), everything(whole)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert second.progress == whole.progress
