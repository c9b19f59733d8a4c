"""Which device a process works on, and how many threads it may use."""

import os

import torch

from zoo.errors import ConfigError


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """``auto`` is the accelerator if there is one, else the CPU; each local rank takes one accelerator.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wanted == "auto":
        wanted = accelerator.type if accelerator else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError("trainer.device", f"{wanted!r} is no device", "trainer.device=auto", "trainer.device=cpu") from error
    if device.type == "cpu":
        return device
    if accelerator is None or device.type != accelerator.type:
        raise ConfigError(
            "trainer.device", f"{wanted!r} is not on this machine; it has {accelerator.type if accelerator else 'only a CPU'}", "trainer.device=auto"
        )
    count, index = torch.accelerator.device_count(), device.index if device.index is not None else local_rank
    if index >= count:
        raise ConfigError(
            "parallel.processes",
            f"process {index} has no {device.type} device of its own; there are {count}",
            f"parallel.processes={count}",
            "trainer.device=cpu",
        )
    torch.accelerator.set_device_index(index)
    return torch.device(device.type, index)


def limit_threads(threads: int | None, local_processes: int) -> int:
    """CPU threads of this process: what was asked for, or an even share of the cores."""
    if threads is None and local_processes > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // local_processes)
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
