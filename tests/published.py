"""Published layouts, made small."""

import gzip
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4) for size in array.shape) + array.astype(np.uint8).tobytes()


def fashion(folder: Path, *, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 10)):
        for kind, array in (("images-idx3", random.integers(0, 256, (count, 28, 28))), ("labels-idx1", np.arange(count) % 10)):
            content = idx(array)
            (folder / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}").write_bytes(gzip.compress(content) if zipped else content)
    return folder
