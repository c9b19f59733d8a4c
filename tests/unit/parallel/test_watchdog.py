"""R12: of several processes that stand still, the one that the others wait for speaks first."""

import threading
import time
from collections.abc import Callable
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


@pytest.mark.parametrize("place", PLACES)
def test_a_process_in_a_collective_is_more_patient(place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended, told = threading.Event(), []

    def leave(code: int) -> None:
        told.append((code, time.monotonic()))
        ended.set()

    monkeypatch.setattr(watchdog.os, "_exit", leave)
    monkeypatch.setattr(watchdog, "PATIENCE", 1.0)
    begun = time.monotonic()
    with Watchdog(1, 0.2, lambda: "step 7, waiting for its data,") as dog:
        dog.beat()
        waiting_in(PLACES[place])(ended)
    code, when = told[0]
    assert code == 1
    assert (when - begun > 1.2) == (place == "collective")
    assert "rank 1 has been at step 7, waiting for its data, for more than" in capsys.readouterr().err


def test_rest_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog.os, "_exit", lambda code: pytest.fail(f"left with {code}"))
    with Watchdog(0, 0.05, lambda: "step 1") as dog:
        dog.beat()
        dog.rest()
        time.sleep(0.3)
