"""R12: of several processes that stand still, the one that the others wait for speaks first."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from zoo.parallel import watchdog
from zoo.parallel.watchdog import Watchdog

PLACES = {"own": "/somewhere/model.py", "collective": "/site-packages/torch/distributed/distributed_c10d.py"}


def waiting_in(path: str) -> Callable[[threading.Event], None]:
    """A function that waits, in a file of that name."""
    names: dict[str, Any] = {}
    exec(compile("def wait(event):\n    event.wait(20)\n", path, "exec"), names)
    return names["wait"]  # type: ignore[no-any-return]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, set by hand; the watchdog's clock reads them."""
    seconds = [0.0]
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    return seconds


@pytest.mark.parametrize("place", PLACES)
def test_a_process_in_a_collective_is_more_patient(place: str, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PATIENCE", 1.0)
    looked, found = threading.Event(), list[bool]()
    dog = Watchdog(1, 0.2, lambda: "step 7")
    dog.beat()

    def look() -> None:
        while dog.in_collective() != (place == "collective"):
            looked.wait(0.01)  # until the other thread stands where it will
        for seconds in (0.1, 0.7, 1.5):
            now[0] = seconds
            found.append(dog.overdue())
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    waiting_in(PLACES[place])(looked)
    thread.join()
    assert found == [False, place == "own", True]


def test_one_that_is_overdue_is_told_and_ends(now: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended, codes = threading.Event(), []

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(watchdog.os, "_exit", leave)
    with Watchdog(1, 0.2, lambda: "step 7, waiting for its data,") as dog:
        dog.beat()
        now[0] = 60.0
        assert ended.wait(20)
    assert codes[0] == 1
    assert "rank 1 has been at step 7, waiting for its data, for more than" in capsys.readouterr().err


def test_rest_is_not_watched(now: list[float]) -> None:
    dog = Watchdog(0, 0.05, lambda: "step 1")
    dog.beat()
    now[0] = 60.0
    assert dog.overdue()
    dog.rest()
    assert not dog.overdue()
