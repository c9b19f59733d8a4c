"""Where data is kept."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """zoo's cache of one data set: ``$ZOO_CACHE``, else ``$XDG_CACHE_HOME/zoo``, else ``~/.cache/zoo``."""
    root = os.environ.get("ZOO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"
    return Path(root) / "data" / name
