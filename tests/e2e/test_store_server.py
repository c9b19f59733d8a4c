"""R4, R5: checkpoints on servers that we did not write (pyftpdlib, through fsspec's ftp; asyncssh, through its sftp, which is paramiko's client), and
processes that are really killed while they upload."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

from zoo.errors import ConfigError
from zoo.parallel.sharding import Piece
from zoo.training.checkpoint import Checkpointer
from zoo.training.remote import Remote
from zoo.training.store import Store, run_files

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
SFTP = """
import asyncio
import sys

import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return (username, password) == ("me", "word")


async def serve(port, folder):
    key = asyncssh.generate_private_key("ssh-ed25519")
    await asyncssh.listen(
        "127.0.0.1", port, server_factory=Server, server_host_keys=[key], sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=folder)
    )
    await asyncio.Event().wait()


asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
"""
TRAIN = ["logger=none", "model/encoder=mlp_tiny", "model.encoder.dims=[256,256]", "trainer.max_steps=24", "trainer.eval_every=12", "trainer.checkpoint_every=6"]
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and folder of a server that runs: of ftp, if nothing is said."""
    protocol = getattr(request, "param", "ftp")
    folder = tmp_path / "server"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ftp, sftp = ["-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(port), "-w", "-d", str(folder)], ["-c", SFTP, str(port), str(folder)]
    command = [sys.executable, "-W", "ignore", *(ftp if protocol == "ftp" else sftp)]
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
    yield f"{protocol}://{'me@' if protocol == 'sftp' else ''}127.0.0.1:{port}", folder
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


@pytest.mark.parametrize("server", ["ftp", "sftp"], indirect=True)
def test_all_that_a_run_asks_of_a_store(tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """R4, R5: two writers meet, older ones go, one that is cut short is named, one without a marker is cleaned up; and nothing of it is in the way."""
    monkeypatch.setitem(fsspec.config.conf, "sftp", {"password": "word"})  # as FSSPEC_SFTP_PASSWORD does in a new process
    url, place, run_dir = server[0] + "/runs/x", server[1] / "runs" / "x", tmp_path / "run"
    (run_dir / "processor").mkdir(parents=True)
    (run_dir / "config.yaml").write_text("name: x\n")
    (run_dir / "processor" / "processor.json").write_text("{}")
    Store(url).check_new()
    pair = [Checkpointer(run_dir / "checkpoints", 2, rank=rank, writers=2, timeout=30, remote=Remote(Store(url), run_dir, "one")) for rank in range(2)]
    for step in (1, 2, 3, 3, 4):
        for rank, one in enumerate(pair):
            tensors = {"model": {"a": torch.full((50_000,), float(step + rank))}}  # in more than one piece
            one.save(step, tensors, {"progress": {"best": None}}, best=None, pieces={"a": Piece((100_000,), (50_000,), (50_000 * rank,), 1, True)})
        for one in pair:
            one.wait()
    assert sorted(path.name for path in place.iterdir()) == ["step_00000003", "step_00000004"]
    assert not [path.name for path in place.glob("*/done-*")]
    with pytest.raises(ConfigError, match="up to step 4"):
        Store(url).check_new()
    found, messages = pair[0].newest()
    assert (found.step, messages) == (4, [])
    assert found.tensors("model")["a"][[0, 49_999, 50_000, 99_999]].tolist() == [4, 4, 5, 5]
    with run_files(url) as files:
        assert sorted(path.name for path in files.rglob("*.*")) == ["config.yaml", "processor.json"]
    pair[0].release()
    os.truncate(place / "step_00000004" / "model.00001-of-00002.safetensors", 100_000)
    found, messages = pair[0].newest()
    assert found.step == 3
    assert "model.00001-of-00002.safetensors: 100000 bytes" in messages[0]
    (place / "step_00000004" / "complete.json").unlink()
    pair[0].clean()
    assert [path.name for path in place.iterdir()] == ["step_00000003"]


def test_a_server_that_is_gone_is_said_before_anything_is_made(tmp_path: Path) -> None:
    result = train(tmp_path, *TRAIN, "run_dir=run", "trainer.checkpoint_to=ftp://127.0.0.1:9/x")
    assert result.returncode == 2
    assert "ftp://127.0.0.1:9/x: cannot be listed (ConnectionRefusedError" in result.stderr
    assert not (tmp_path / "run").exists()
