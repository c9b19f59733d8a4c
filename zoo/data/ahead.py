"""Batches on their way to an accelerator while it still works on the ones before.

A thread takes batches from the loader, pins them and copies them on a stream of its own; the training thread finds them on the device. At most
``depth`` are ahead. The loader's cursor moves when a batch is handed out, not here, so that what was only fetched is not lost in a checkpoint.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from zoo.structs import Batch

DEPTH = 2
PINNED = ("cuda", "xpu")
"""Kinds of devices that copy from pinned memory while they work."""


def ahead(source: Iterable[list[Batch]], device: torch.device, depth: int = DEPTH) -> Iterator[list[Batch]]:
    """The batches of ``source``, on ``device``, in their order. What ``source`` raises is raised here, at its place.

    On a CPU there is nothing to copy: batches are made ahead only.

    Args:
        source: micro-batches of each step, in main memory.
        device: where they are wanted.
        depth: how many steps' batches may be ready or on their way.
    """
    ready: queue.Queue[tuple[list[Batch] | None, Any]] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fetch, args=(source, device, ready, stopped), name="zoo-ahead", daemon=True)
    thread.start()
    try:
        while True:
            parts, news = ready.get()
            if parts is None:
                if news is not None:
                    raise news
                return
            if news is not None:  # the device waits for the copy, this thread does not
                torch.accelerator.current_stream().wait_event(news)
                for part in parts:
                    part.apply(_used_here)
            yield parts
    finally:
        stopped.set()
        while thread.is_alive():  # it may be waiting for a place
            try:
                ready.get_nowait()
            except queue.Empty:
                thread.join(0.01)


def _fetch(source: Iterable[list[Batch]], device: torch.device, ready: "queue.Queue[tuple[list[Batch] | None, Any]]", stopped: threading.Event) -> None:
    try:
        stream: Any = None
        if device.type != "cpu":
            torch.accelerator.set_device_index(device)
            stream = torch.Stream(device)
        for parts in source:
            if stopped.is_set():
                return
            moved, event = parts, None
            with stream if stream is not None else nullcontext():
                if stream is not None:
                    moved = [part.apply(lambda tensor: tensor.pin_memory().to(device, non_blocking=True)) for part in parts]
                    event = torch.Event(device)
                    event.record(stream)
            ready.put((moved, event))
        ready.put((None, None))
    except BaseException as error:  # noqa: BLE001 - handed over to the training thread, which raises it
        ready.put((None, error))


def _used_here(tensor: torch.Tensor) -> torch.Tensor:
    """Its memory is free for others only after what the training thread's stream does with it."""
    tensor.record_stream(torch.accelerator.current_stream())  # type: ignore[arg-type]
    return tensor
