"""Where data is kept, and what people are told who have none yet."""

import os
from pathlib import Path

from zoo.files import home

SETS = {
    "fashion_mnist": ("train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz", "fashion_mnist"),
    "ml100k": (
        "u.data and u.item of MovieLens-100k (https://grouplens.org/datasets/movielens/100k/), or RecBole's ml-100k.inter and ml-100k.item",
        "movielens",
    ),
    "sample_sounds": ("the .flac files of Sonic Pi (etc/samples of its repository, or Debian's package sonic-pi-samples)", "sounds"),
    "tweets": ("tweets.csv with the columns text and label, made from the human ratings of tweets that come with vaderSentiment", "vader"),
    "breast_cancer": ("breast_cancer.csv: scikit-learn's load_breast_cancer with the names of its columns, and a column diagnosis", "breast_cancer"),
}
"""Plain name below ``data_folder()`` -> its files, and what tools/fetch_real_data.py calls it."""


def data_folder() -> Path:
    """Where the sets that zoo's presets name are looked for: ``$ZOO_DATA``, else ``./data``."""
    return home(os.environ.get("ZOO_DATA") or "data")


def cache_folder(name: str) -> Path:
    """zoo's cache of one data set: ``$ZOO_CACHE``, else ``$XDG_CACHE_HOME/zoo``, else ``~/.cache/zoo``."""
    root = os.environ.get("ZOO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"
    return Path(root) / "data" / name


def ways(path: Path, option: str) -> str:
    """How to get what is not at ``path``: the files of the set that the path names and where to put them, or another path."""
    name = next((name for name in SETS if path == data_folder() / name or data_folder() / name in path.parents), None)
    return (f"{way(name)}; or " if name else "") + f"{option} of your own"


def way(name: str) -> str:
    """Where the files of a set belong, and one way to get them."""
    files, called = SETS[name]
    return (
        f"put into {data_folder() / name} (ZOO_DATA says where else): {files}; in a checkout of zoo, `python tools/fetch_real_data.py data {called}` does that"
    )
