"""Real processes with gloo between them, for distributed tests."""

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preload"])


def run_ranks(function: Callable[..., Any], world: int, *arguments: Any, timeout: float = 60) -> list[Any]:
    """``function(rank, world, *arguments)`` in ``world`` processes of one gloo group; what each returns, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [_context.Pipe(duplex=False) for _ in range(world)]
        ranks = [_context.Process(target=_rank, args=(pipe, function, rank, world, folder, arguments)) for rank, (_, pipe) in enumerate(pipes)]
        for process in ranks:
            process.start()
        try:
            answers = []
            for rank, (pipe, _) in enumerate(pipes):
                assert pipe.poll(timeout), f"rank {rank} did not answer in {timeout} s"
                answer, error = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own child
                assert error is None, f"rank {rank}: {error}"
                answers.append(answer)
            return answers
        finally:
            for process in ranks:
                process.join(5)
                if process.is_alive():
                    process.kill()


def _rank(pipe: Connection, function: Callable[..., Any], rank: int, world: int, folder: str, arguments: tuple[Any, ...]) -> None:
    import torch
    from torch import distributed

    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", init_method=f"file://{Path(folder) / 'meet'}", rank=rank, world_size=world)
        pipe.send_bytes(pickle.dumps((function(rank, world, *arguments), None)))  # bytes: tensors by value, not as shared memory
        distributed.barrier()
        distributed.destroy_process_group()
    except BaseException:  # noqa: BLE001 - told to the parent
        pipe.send_bytes(pickle.dumps((None, traceback.format_exc())))
