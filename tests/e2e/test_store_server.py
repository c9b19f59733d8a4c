"""R4, R5: checkpoints on a server that we did not write (pyftpdlib, through fsspec's ftp), and processes that are really killed while they upload."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

KILL = """
import os
import signal

from fsspec.implementations.ftp import FTPFile

upload = FTPFile._upload_chunk


def killed(self, final=False):
    if f"step_000000{os.environ['KILL_AT']}/model" in self.path and self.offset and os.environ.get("RANK", "0") == os.environ["KILL_RANK"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return upload(self, final)


FTPFile._upload_chunk = killed
"""
TRAIN = ["logger=none", "model/encoder=mlp_tiny", "model.encoder.dims=[256,256]", "trainer.max_steps=24", "trainer.eval_every=12", "trainer.checkpoint_every=6"]
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and folder of a server that runs."""
    folder = tmp_path / "server"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(port), "-w", "-d", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield f"ftp://127.0.0.1:{port}", folder
    process.terminate()
    process.wait(10)


def train(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "zoo", "train", *arguments]
    inherited = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, env=inherited, capture_output=True, encoding="utf-8", timeout=600, check=False)


def weights(folder: Path) -> bytes:
    return (folder / "run" / "bundle" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("layout", [[], pytest.param(["parallel=fsdp", "parallel.processes=2"], marks=pytest.mark.slow)], ids=["one", "fsdp"])
def test_killed_in_the_middle_of_an_upload(tmp_path: Path, server: tuple[str, Path], layout: list[str]) -> None:
    """R4, R5: the last complete one stays; from it and nothing else the run ends in the bits of one that kept its checkpoints here and never stopped."""
    url, place = server[0] + "/runs/x", server[1] / "runs" / "x"
    first, second, whole = tmp_path / "first", tmp_path / "second", tmp_path / "whole"
    first.mkdir()
    (first / "kill.py").write_text(KILL)
    killed = train(
        first, *TRAIN, *layout, "run_dir=run", f"trainer.checkpoint_to={url}", "--import", "./kill.py", KILL_AT="18", KILL_RANK=str(len(layout) // 2)
    )
    assert killed.returncode == (1 if layout else -signal.SIGKILL), killed.stderr
    assert not (place / "step_00000018" / "complete.json").exists()
    assert any((place / "step_00000018").iterdir())  # something had been sent
    assert (place / "step_00000012" / "complete.json").exists()
    shutil.rmtree(first)
    again = train(second, f"resume={url}", "run_dir=run")
    assert again.returncode == 0, again.stderr
    assert f"going on from {url}/step_00000012" in again.stderr
    assert (place / "step_00000024" / "complete.json").exists()
    assert train(whole, *TRAIN, *layout, "run_dir=run").returncode == 0
    assert weights(second) == weights(whole)
    steps = [row.partition(",")[0] for row in (second / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [row.partition(",")[0] for row in (whole / "run" / "log.jsonl").read_text().splitlines()]
    if layout:
        assert (place / "step_00000024" / "model.00001-of-00002.safetensors").exists()


def test_a_server_that_is_gone_is_said_before_anything_is_made(tmp_path: Path) -> None:
    result = train(tmp_path, *TRAIN, "run_dir=run", "trainer.checkpoint_to=ftp://127.0.0.1:9/x")
    assert result.returncode == 2
    assert "ftp://127.0.0.1:9/x: cannot be listed (ConnectionRefusedError" in result.stderr
    assert not (tmp_path / "run").exists()
