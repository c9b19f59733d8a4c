"""Where a step's time goes, on a clock that is set by hand; a device's events carry a time."""

from types import SimpleNamespace

import pytest

from zoo.training import clock as clock_module
from zoo.training.clock import DeviceClock, StepClock


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds; the clock under test reads them."""
    seconds = [0.0]
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    return seconds


def test_each_part_has_the_time_that_was_spent_on_it(now: list[float]) -> None:
    clock = StepClock()
    for _ in range(3):
        now[0] += 0.02
        clock.mark("data")
        clock.begin()
        clock.mark("forward")
        now[0] += 0.04
        clock.mark("backward")
        now[0] += 0.2
        clock.skip()  # an evaluation
    seconds, parts = clock.take(3)
    assert parts == {"ms_data": pytest.approx(20), "ms_backward": pytest.approx(40)}
    assert seconds == pytest.approx(0.18)
    assert clock.take(1) == (0.0, {})


class Event:
    """A device that has worked for 5 ms more at each event than at the one before; only what is complete can be asked."""

    now = 0.0
    complete = 0.0

    def record(self) -> None:
        Event.now += 5.0
        self.at = Event.now

    def elapsed_time(self, end: "Event") -> float:
        assert end.at <= Event.complete, "reading this would wait for the device"
        return end.at - self.at


def test_beside_a_device_the_parts_are_of_a_step_that_is_complete(now: list[float]) -> None:
    """The device is one step behind, but for what the norm of the gradient has waited for."""
    clock = DeviceClock(Event)
    for _ in range(4):
        now[0] += 0.001
        clock.mark("data")
        clock.begin()
        clock.mark("forward")
        clock.mark("backward")
        clock.mark("forward")
        clock.mark("backward")
        Event.complete = Event.now
        clock.mark("optimizer")
        clock.mark("rest")
    seconds, parts = clock.take(4)
    assert parts == {"ms_data": pytest.approx(1.0), "ms_forward": 10.0, "ms_backward": 10.0, "ms_optimizer": 5.0}
    assert seconds == pytest.approx(0.004)  # the host's


def test_the_first_row_beside_a_device_knows_no_step_yet() -> None:
    clock = DeviceClock(Event)
    clock.begin()
    clock.mark("forward")
    assert set(clock.take(1)[1]) <= {"ms_data", "ms_rest"}
