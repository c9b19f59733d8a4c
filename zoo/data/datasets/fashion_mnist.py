"""Fashion-MNIST (Xiao et al., 2017, https://arxiv.org/abs/1708.07747), from its four published idx files."""

import gzip
import zlib
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.data.base import OpenData
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.download import fetch
from zoo.data.folders import cache_folder, data_folder, way
from zoo.data.splits import ArraySplit
from zoo.errors import DataError
from zoo.fetching import offline
from zoo.files import home
from zoo.registry import DATASETS
from zoo.specs import DataSpec

LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training images, on the scale 0 to 1
FILES = {  # sha256 of the idx content, so that a recompressed copy counts as the same data
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
LIMIT = 40_000_000


class Download(StrEnum):
    MISSING = "missing"
    NEVER = "never"


@DATASETS.register("fashion_mnist")
class FashionMnist:
    """60,000 training and 10,000 test images of clothes, 28 x 28 grey, 10 classes; validation is cut from the end of training.

    The files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, each plain or
    with `.gz`. A null root looks in `$ZOO_DATA/fashion_mnist` (`./data` where ZOO_DATA is not set), in `/usr/share/datasets/fashion-mnist`
    (Debian's package dataset-fashion-mnist) and in zoo's cache.

    Args:
        root: folder with the four files; null looks where they are usually kept.
        download: missing fetches absent files (31 MB, pinned by sha256); never does not.
        sources: addresses of folders with the four .gz files, tried in order.
        image_size: side that the images are resized to, in pixels.
        validation: last images of the training set, kept aside for validation; 0 trains on all 60,000.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        download: Download = Download.MISSING,
        sources: tuple[str, ...] = (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        image_size: int = 28,
        validation: int = 5000,
    ) -> None:
        if not 0 <= validation < 60_000:
            raise ValueError(f"validation={validation} of 60,000 training images; from 0 to 59999")
        self.root, self.download, self.sources, self.validation = root, download, sources, validation
        self.image = ImageCodec(name="image", channels=1, size=(image_size, image_size), mean=(MEAN,), std=(STD,))

    def sketch(self) -> DataSpec:
        return DataSpec(inputs=(self.image.spec,), targets=(ClassCodec(name="label", labels=LABELS).spec.sketched("counts"),))

    def open(self) -> OpenData:
        folder = self._folder()
        arrays = {part: (read_idx(folder, f"{part}-images-idx3-ubyte")[:, None], read_idx(folder, f"{part}-labels-idx1-ubyte")) for part in ("train", "t10k")}
        for part, (images, labels) in arrays.items():
            if images.shape[2:] != (28, 28) or len(images) != len(labels) or not len(labels) or int(labels.max()) > 9:
                raise DataError(f"{folder}: the {part} files hold {list(images.shape)} images and {list(labels.shape)} labels; these are not Fashion-MNIST's")
        images, labels = arrays["train"]
        if self.validation >= len(labels):
            raise DataError(f"{folder}: {len(labels)} training images, of which validation={self.validation} are to be kept aside; choose fewer")
        kept = len(labels) - self.validation
        parts = {"train": (images[:kept], labels[:kept]), "validation": (images[kept:], labels[kept:]), "test": arrays["t10k"]}
        splits = {
            name: ArraySplit({"image": some, "label": which.to(torch.int64)}, labels={"label": LABELS}, what=f"{name} image")
            for name, (some, which) in parts.items()
            if len(which)
        }
        counts = torch.bincount(labels[:kept].to(torch.int64), minlength=len(LABELS)).tolist()
        return OpenData(
            inputs={"image": self.image},
            targets={"label": ClassCodec(name="label", labels=LABELS, counts=counts)},
            splits=dict(splits),
            notes={
                "source": "Fashion-MNIST (Xiao et al., 2017), MIT licence",
                "split": f"official; the last {self.validation} training images validate, the first {kept} train, {len(arrays['t10k'][1])} test",
            },
        )

    def _folder(self) -> Path:
        """The folder that has all four files, downloading them where that is asked for."""
        target = home(self.root) if self.root is not None else cache_folder("fashion_mnist")
        places = [target] if self.root is not None else [data_folder() / "fashion_mnist", Path("/usr/share/datasets/fashion-mnist"), target]
        for folder in places:
            if not missing(folder):
                return folder
        absent = missing(target)
        ways = f"{way('fashion_mnist')}; or data.root=FOLDER of your own"
        where = ", ".join(map(str, places))
        if self.download is Download.NEVER or offline():
            why = "data.download=never" if self.download is Download.NEVER else "offline (ZOO_OFFLINE)"
            raise DataError(f"Fashion-MNIST lacks {', '.join(absent)}; looked in {where}; not downloaded: {why}\n  way out: {ways}")
        try:
            for name in absent:
                fetch([f"{source.rstrip('/')}/{name}.gz" for source in self.sources], target / f"{name}.gz", sha256=FILES[name], limit=LIMIT)
        except DataError as error:
            raise DataError(f"Fashion-MNIST lacks {', '.join(absent)}; looked in {where}\n{error}\n  way out: {ways}") from error
        return target


def missing(folder: Path) -> list[str]:
    """Names of the files that a folder lacks in both forms."""
    return [name for name in FILES if not (folder / name).is_file() and not (folder / f"{name}.gz").is_file()]


def read_idx(folder: Path, name: str) -> Tensor:
    """An idx file of bytes: two zero bytes, type 8 (uint8), the number of axes, each size as a big-endian integer, the values.

    Raises:
        DataError: where the header or the size is wrong.
    """
    plain = folder / name
    path = plain if plain.is_file() else folder / f"{name}.gz"
    try:
        content = path.read_bytes() if path == plain else gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    axes = content[3] if len(content) >= 4 else 0
    header = 4 + 4 * axes
    if content[:3] != b"\x00\x00\x08" or axes not in (1, 3) or len(content) < header:
        raise DataError(f"{path} is no idx file of bytes: it starts with {content[:4].hex(' ')}, expected 00 00 08 and 01 or 03")
    sizes = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis]) for axis in range(axes)]
    if len(content) - header != int(np.prod(sizes)):
        raise DataError(f"{path} holds {len(content) - header} values where its header says {' x '.join(map(str, sizes))}")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=header).reshape(sizes).copy())
