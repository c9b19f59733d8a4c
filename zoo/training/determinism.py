"""The same bits each time: ``trainer.deterministic``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from zoo.errors import ConfigError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """While entered, torch uses kernels that give the same bits each time, and refuses operations that have none.

    It has to be entered before anything has run on a GPU: cuBLAS reads its workspace's size once. The bits still depend on the device,
    the versions of the libraries and the number of threads, all of which ``environment.json`` records.

    Raises:
        ConfigError: for such an operation, with its name.
    """
    if not wanted:
        yield
        return
    fills: Any = torch.utils.deterministic  # its attributes are made by a module class
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, fills.fill_uninitialized_memory
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    fills.fill_uninitialized_memory = False  # an aid for finding reads of fresh memory; it would write every new tensor twice
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise ConfigError("trainer.deterministic", f"{str(error).partition('. ')[0]}", "trainer.deterministic=false", "another device or layer") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark, fills.fill_uninitialized_memory = before[1:]
