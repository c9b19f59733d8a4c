"""Batches on their way to an accelerator while it still works on the ones before.

A thread takes batches from the loader, pins them and copies them on a stream of its own; the training thread finds them on the device. At most
``DEPTH`` are ahead. Each comes with the loader's cursor behind it, so that what was only fetched is not lost in a checkpoint.
"""

import queue
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from zoo.structs import Batch

DEPTH = 2
PINNED = ("cuda", "xpu")
"""Kinds of devices that copy from pinned memory while they work."""


class Source(Protocol):
    """A loader, as far as it is needed here."""

    def __iter__(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """A step's micro-batches.

    Args:
        parts: on the device.
        host: the same in main memory, where they can be looked at without waiting for the device.
        cursor: the loader's state behind them.
    """

    parts: list[Batch]
    host: list[Batch]
    cursor: Mapping[str, Any]


Fetching = Generator[Fetched, None, None]


def fetch(loader: Source, device: torch.device) -> Fetching:
    """What is left of the loader's epoch, in its order; close it before the loader is used for something else."""
    return ahead(loader, device) if device.type in PINNED else inline(loader, device)


def inline(loader: Source, device: torch.device) -> Fetching:
    """Each when it is wanted."""
    for parts in loader:
        yield Fetched(parts if device.type == "cpu" else [part.to(device) for part in parts], parts, loader.state_dict())


def ahead(loader: Source, device: torch.device, depth: int = DEPTH) -> Fetching:
    """In the background. What the loader raises is raised here, at its place.

    Args:
        loader: of batches in main memory.
        device: where they are wanted; on a CPU there is nothing to copy.
        depth: how many may be ready or on their way.
    """
    ready: queue.Queue[tuple[Fetched | BaseException | None, Any]] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(loader, device, ready, stopped), name="zoo-ahead", daemon=True)
    thread.start()
    try:
        while True:
            fetched, copied = ready.get()
            if fetched is None:
                return
            if isinstance(fetched, BaseException):
                raise fetched
            if copied is not None:  # the device waits for the copy, this thread does not
                torch.accelerator.current_stream().wait_event(copied)
                for part in fetched.parts:
                    part.apply(_used_here)
            yield fetched
    finally:
        stopped.set()
        while thread.is_alive():  # it may be waiting for a place
            try:
                ready.get_nowait()
            except queue.Empty:
                thread.join(0.01)


def _fill(
    loader: Iterable[list[Batch]], device: torch.device, ready: "queue.Queue[tuple[Fetched | BaseException | None, Any]]", stopped: threading.Event
) -> None:
    try:
        stream: Any = None
        if device.type != "cpu":
            torch.accelerator.set_device_index(device)
            stream = torch.Stream(device)
        for parts in loader:
            if stopped.is_set():
                return
            cursor = loader.state_dict()  # type: ignore[attr-defined]
            moved, copied = parts, None
            with stream if stream is not None else nullcontext():
                if stream is not None:
                    moved = [part.apply(lambda tensor: tensor.pin_memory().to(device, non_blocking=True)) for part in parts]
                    copied = torch.Event(device)
                    copied.record(stream)
            ready.put((Fetched(moved, parts, cursor), copied))
        ready.put((None, None))
    except BaseException as error:  # noqa: BLE001 - handed over to the training thread, which raises it
        ready.put((error, None))


def _used_here(tensor: torch.Tensor) -> torch.Tensor:
    """Its memory is free for others only after what the training thread's stream does with it."""
    tensor.record_stream(torch.accelerator.current_stream())
    return tensor
