"""Processes that train together: started by torch's elastic launcher, or found already started by torchrun.

``zoo train parallel.processes=2`` starts two ranks with ``zoo.parallel.worker``; ``torchrun --nproc-per-node=2 -m zoo train ...`` works as
well: rank 0 makes the run's directory and tells the others.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch._C._distributed_c10d import PrefixStore, TCPStore

from zoo.errors import ConfigError, ZooError
from zoo.parallel.watchdog import PATIENCE
from zoo.parallel.worker import FAILED, REFUSED

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import ProcessFailure

GRACE = 30
"""Seconds that ranks have to save and leave after a signal, or to say their last words after another rank's failure."""


def local_place() -> tuple[int, int, int]:
    """Rank, rank on this machine, processes on this machine, as the launcher says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def joined_group(device: torch.device, timeout: int) -> Iterator[None]:
    """The process group, where a launcher has started several processes.

    Args:
        device: decides how they speak: gloo between CPUs, else the accelerator's own.
        timeout: seconds that a step may take; a collective that does not answer raises a little later, after whoever it waits for has spoken.
    """
    if launched() == 1:
        yield
        return
    if not distributed.is_initialized():
        join(device, timeout)
    failed = True
    try:
        yield
        failed = False
    finally:
        # After a failure the others may be waiting in a collective: leaving at once closes the connection, which wakes them up.
        if not failed:
            distributed.destroy_process_group()


def join(device: torch.device, timeout: int) -> None:
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{distributed.get_default_backend_for_device(device)}"
    limit = timedelta(seconds=timeout + 2 * PATIENCE)
    place: dict[str, Any] = {}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun's store outlives the processes that it starts again, and has the addresses of those that are gone.
        agent = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=limit)
        store = PrefixStore(f"zoo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", agent)
        place = {"store": store, "rank": local_place()[0], "world_size": launched()}
    distributed.init_process_group(backend, timeout=limit, device_id=device if device.type == "cuda" else None, **place)


def launched() -> int:
    """How many processes torchrun, or whoever started this one, has started to train together; 1 where nobody did."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_ranks_within_ranks(processes: int) -> None:
    """Under torchrun the number of processes is torchrun's.

    Raises:
        ConfigError: where the config asks for processes besides.
    """
    if launched() > 1 and processes > 1:
        raise ConfigError(
            "parallel.processes",
            f"{processes} processes are asked for in each of the {launched()} that torchrun has started",
            "parallel.processes=1, and torchrun decides: torchrun --nproc-per-node=N -m zoo train ...",
            f"no torchrun: zoo train parallel.processes={processes}",
        )


def shared_run_dir(make: Callable[[], Path], device: torch.device, timeout: int) -> Path:
    """Under torchrun: rank 0 makes the run's directory, every rank gets it; what rank 0 refuses, every rank refuses.

    The ranks join here, the way they will train, and stay joined for the run.

    Args:
        make: makes the directory; called by rank 0.
        device: of this process.
        timeout: as for ``joined_group``.
    """
    if not distributed.is_initialized():
        join(device, timeout)
    answer: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            answer[0] = str(make())
        except ZooError as error:
            answer[1] = str(error)
    distributed.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        distributed.destroy_process_group()
        raise ZooError(answer[1])
    return Path(answer[0])


def launch(run_dir: Path, processes: int) -> dict[str, Any]:
    """Run the job in ``run_dir`` with several processes on this machine, and give its result.

    Raises:
        ZooError: when a rank failed by the user's mistake; it has said why on standard error.
        RuntimeError: when a rank failed otherwise, with the one that was the cause.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    result = run_dir / "result.json"
    result.unlink(missing_ok=True)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=GRACE,
        run_id=run_dir.name,
    )
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))}
    os.environ.update({name: value for name, value in quiet.items() if name not in os.environ})
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "zoo.parallel.worker", str(run_dir))
    except ChildFailedError as error:
        raise why(error.failures, run_dir) from None
    except SignalException as error:
        if not result.is_file():
            raise RuntimeError(f"ended by {error.sigval.name} before the ranks could save; go on with: zoo train resume={run_dir}") from None
    loaded: dict[str, Any] = json.loads(result.read_text())
    return loaded


def why(failures: Mapping[int, "ProcessFailure"], run_dir: Path) -> Exception:
    """What to say of ranks that failed. One that dies takes the others' connections along, and they may be found first: the cause is looked for.

    Args:
        failures: of each rank that failed, as torch's launcher gives them; their times are of whole seconds.
        run_dir: of the run.
    """
    start = min(failure.timestamp for failure in failures.values())
    first = {rank: failure.exitcode for rank, failure in failures.items() if failure.timestamp < start + GRACE // 2}  # later: ended by the launcher
    killed = sorted(rank for rank, code in first.items() if code < 0 and code != -signal.SIGTERM)  # SIGTERM: the launcher's to the others
    if killed:
        name = signal.Signals(-first[killed[0]]).name
        return RuntimeError(f"{_ranks(killed)} ended by {name}, and could say nothing; go on with: zoo train resume={run_dir}")
    left = sorted(rank for rank, code in first.items() if code not in (FAILED, REFUSED, -signal.SIGTERM, 128 + signal.SIGTERM))
    refused = sorted(rank for rank, code in first.items() if code == REFUSED)
    if refused and not left:
        return ZooError(f"{_ranks(refused)} unable to go on; see the message above")
    named = left or sorted(rank for rank, code in first.items() if code == FAILED) or sorted(first)
    return RuntimeError(f"{_ranks(named)} the first to fail (exit code {first[named[0]]}); see the messages above")


def _ranks(numbers: list[int]) -> str:
    """As the beginning of a sentence in the past."""
    if len(numbers) == 1:
        return f"rank {numbers[0]} was"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} were"
