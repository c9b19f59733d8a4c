"""What goes out of a folder, and what stays here; a hub that is not one; branches."""

import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.hub_server import COMMIT, HubHandler, hub
from zoo.errors import CheckpointError
from zoo.hub.bundle import FILES
from zoo.hub.push import PushError, destination, publishable
from zoo.hub.resolve import pretrained
from zoo.hub.uri import HubRepo

ROOT = Path(__file__).parents[3]
DIGITS = pretrained()["digits_cnn"]
WRITER = {"HF_TOKEN": "hf_writer"}
SECRETS = (".env", "sub/.env", ".git/config", "processor/.env", "notes/key.pem", "credentials.json", "run.log")


@pytest.fixture(autouse=True)
def _online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def zoo(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """HF_ENDPOINT is read when the hub's client is imported, so in a process of its own."""
    return subprocess.run([sys.executable, "-m", "zoo", *words], capture_output=True, text=True, check=False, env=os.environ | environment, cwd=ROOT)


@contextmanager
def branching(repos: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, type[HubHandler], set[str]]]:
    """A hub that knows branches, and commits to none that was not made."""
    branches: set[str] = {"main"}
    with hub(repos) as (url, handler):
        plain = handler.do_POST

        def do_post(self: HubHandler) -> None:
            parts = self.path.strip("/").split("/")
            if parts[4:5] == ["branch"]:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                code = 409 if parts[5] in branches else 200
                branches.add(parts[5])
                return self.answer(code, b"{}", {"Content-Type": "application/json"})
            if parts[4:5] == ["commit"] and parts[5] not in branches:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return plain(self)

        handler.do_POST = do_post  # type: ignore[method-assign]
        yield url, handler, branches


def add_secrets(folder: Path) -> None:
    for name in SECRETS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    (folder / "1_Pooling").mkdir(parents=True)
    save_file({"weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "1_Pooling/config.json"):
        (folder / name).write_text("{}")
    for name in ("vocab.txt", "README.md", "LICENSE"):
        (folder / name).write_text("text")
    return folder


# --- what goes out ----------------------------------------------------------------------------------------------------------------


def test_of_a_foreign_folder_what_zoo_reads_goes_out(foreign: Path) -> None:
    models = {path.relative_to(foreign).as_posix() for path in foreign.rglob("*") if path.is_file()}
    add_secrets(foreign)
    torch.save({"step": 1}, foreign / "optimizer.pt")
    (foreign / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    sent = publishable(foreign)
    assert set(sent.files) == models
    assert set(sent.left_out) == {*SECRETS, "optimizer.pt", "pytorch_model.bin"}


def test_of_a_bundle_its_own_files_go_out(tmp_path: Path) -> None:
    bundle = shutil.copytree(DIGITS, tmp_path / "bundle")
    own = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert own >= set(FILES)
    (bundle / "conversion.json").write_text("{}")
    (bundle / ".source.json").write_text("{}")  # the cache's own: neither sent nor told
    add_secrets(bundle)
    sent = publishable(bundle)
    assert set(sent.files) == own | {"conversion.json"}
    assert set(sent.left_out) == set(SECRETS)


def test_weights_have_to_be_safetensors(foreign: Path, tmp_path: Path) -> None:
    (foreign / "model.safetensors").write_text("not really this")
    bundle = shutil.copytree(DIGITS, tmp_path / "bundle")
    torch.save({"a": torch.zeros(2)}, bundle / "model.safetensors")
    for folder, problem in ((foreign, "no safetensors file"), (bundle, "is a pickle")):
        with pytest.raises(CheckpointError, match=problem):
            publishable(folder)


def test_links_that_lead_out_are_refused(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("secret")
    (foreign / "merges.txt").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(CheckpointError, match=r"merges\.txt: a link that leads out"):
        publishable(foreign)


def test_what_is_left_out_is_told(foreign: Path) -> None:
    add_secrets(foreign)
    repos: dict[str, dict[str, bytes]] = {}
    with hub(repos) as (url, _):
        done = zoo("push", str(foreign), "hf://me/theirs", HF_ENDPOINT=url, **WRITER)
        assert done.returncode == 0, done.stderr
        told = zoo("push", str(foreign), "hf://me/theirs", "--json", HF_ENDPOINT=url, **WRITER)
    assert set(repos["me/theirs"]) == {"1_Pooling/config.json", "LICENSE", "README.md", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}
    assert all(name in done.stderr for name in SECRETS)
    assert set(json.loads(told.stdout)["left_out"]) == set(SECRETS)


def test_no_folder_of_this_machine_goes_out(tmp_path: Path) -> None:
    """The config arrives with the name of the data's file alone, which is told; the one that lies here is as it was."""
    bundle = Path(shutil.copytree(DIGITS, tmp_path / "bundle"))
    text = (bundle / "config.yaml").read_text()
    (bundle / "config.yaml").write_text(text.replace("data:\n", "data:\n  path: /home/me/secret/rows.csv\n", 1))
    repos: dict[str, dict[str, bytes]] = {}
    with hub(repos) as (url, _):
        done = zoo("push", str(bundle), "hf://me/digits", HF_ENDPOINT=url, **WRITER)
        told = zoo("push", str(bundle), "hf://me/again", "--json", HF_ENDPOINT=url, **WRITER)
    assert done.returncode == 0, done.stderr
    assert json.loads(told.stdout)["rewritten"] == {"config.yaml: data.path": "/home/me/secret/rows.csv -> rows.csv"}
    assert "config.yaml: data.path: /home/me/secret/rows.csv -> rows.csv" in done.stderr
    sent = repos["me/digits"]["config.yaml"].decode()
    assert "\n  path: rows.csv\n" in sent
    assert sent.replace("  path: rows.csv\n", "") == text
    assert "/home/me/secret/rows.csv" in (bundle / "config.yaml").read_text()


# --- where to ---------------------------------------------------------------------------------------------------------------------


def test_a_branch_is_made_once(foreign: Path) -> None:
    repos: dict[str, dict[str, bytes]] = {}
    with branching(repos) as (url, server, branches):
        for _ in range(2):
            done = zoo("push", str(foreign), "hf://me/theirs@better", HF_ENDPOINT=url, **WRITER)
            assert done.returncode == 0, done.stderr
    assert branches == {"main", "better"}
    assert "POST /api/models/me/theirs/commit/better" in server.asked
    assert "model.safetensors" in repos["me/theirs"]


def test_destinations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert destination("hf://me/x@y") == HubRepo("me/x", "y")
    for to, problem in (("hf://gpt2", "hf://ORG/gpt2"), ("timm://resnet18", "hf://ORG/NAME"), (f"hf://me/x@{COMMIT}", "never changes")):
        with pytest.raises(PushError, match=problem):
            destination(to)
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(PushError, match="nothing is sent"):
        destination("hf://me/x")


@pytest.mark.parametrize(("to", "environment", "problem"), [("timm://x", {}, "pushed to a repository"), ("hf://me/x", {"ZOO_OFFLINE": "1"}, "nothing is sent")])
def test_where_to_is_asked_before_a_model_is_fetched(to: str, environment: dict[str, str], problem: str) -> None:
    with hub({}) as (url, server):
        done = zoo("push", "hf://org/far", to, HF_ENDPOINT=url, **environment)
    assert (done.returncode, done.stdout, server.asked) == (2, "", [])
    assert problem in done.stderr


# --- what is no hub ---------------------------------------------------------------------------------------------------------------


@contextmanager
def answering(content: bytes, kind: str) -> Iterator[str]:
    """A server that gives everybody the same page."""

    class Portal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Portal)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(b"<html>Please log in</html>", "text/html", id="a captive portal"),
        pytest.param(b'{"error": "quota"}', "application/json", id="an error with 200"),
        pytest.param(b"[]", "application/json", id="a list"),
        pytest.param(b'{"id": "a/b", "siblings": ["x"]}', "application/json", id="files without names"),
    ],
)
def test_a_page_that_is_not_the_hubs(foreign: Path, content: bytes, kind: str) -> None:
    with answering(content, kind) as url:
        pulled = zoo("pull", "hf://a/b", HF_ENDPOINT=url)
        pushed = zoo("push", str(foreign), "hf://a/b", HF_ENDPOINT=url, **WRITER)
    for done in (pulled, pushed):
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert url.removeprefix("http://") in done.stderr
        assert "is that a proxy's page?" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("to", "way_out"),
    [
        ("me/x", "hf://me/x"),
        ("me/x@better", "hf://me/x@better"),
        ("./folder", "hf://ORG/NAME"),
        ("x", "hf://ORG/NAME"),
        ("https://user:secret@host/x", "hf://ORG/NAME"),
        ("hf://x", "hf://ORG/x"),
    ],
)
def test_other_places_are_refused_with_the_hubs_address(to: str, way_out: str) -> None:
    with pytest.raises(PushError) as caught:
        destination(to)
    told = str(caught.value)
    assert told.endswith(f"\n  way out: {way_out}")
    assert told.count("way out") == 1
    assert "secret" not in told
