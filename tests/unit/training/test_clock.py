"""Where a step's time goes. Waiting is simulated by sleeps, a device's events by ones that carry a time."""

import time

import pytest

from zoo.training.clock import DeviceClock, StepClock


def test_each_part_has_the_time_that_was_spent_on_it() -> None:
    clock = StepClock()
    for _ in range(3):
        time.sleep(0.02)
        clock.mark("data")
        clock.begin()
        clock.mark("forward")
        time.sleep(0.04)
        clock.mark("backward")
        time.sleep(0.2)
        clock.skip()  # an evaluation
    seconds, parts = clock.take(3)
    assert 20 <= parts["ms_data"] < 40
    assert parts["ms_forward"] < 10
    assert 40 <= parts["ms_backward"] < 80
    assert seconds == pytest.approx(3 * sum(parts.values()) / 1e3)
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


def test_beside_a_device_the_parts_are_of_a_step_that_is_complete() -> None:
    """The device is one step behind, but for what the norm of the gradient has waited for."""
    clock = DeviceClock(Event)
    for _ in range(4):
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
    assert {name: value for name, value in parts.items() if name not in ("ms_data", "ms_rest")} == {
        "ms_forward": 10.0,
        "ms_backward": 10.0,
        "ms_optimizer": 5.0,
    }
    assert parts["ms_data"] < 5  # the host's own time
    assert seconds < 1


def test_the_first_row_beside_a_device_knows_no_step_yet() -> None:
    clock = DeviceClock(Event)
    clock.begin()
    clock.mark("forward")
    assert set(clock.take(1)[1]) <= {"ms_data", "ms_rest"}
