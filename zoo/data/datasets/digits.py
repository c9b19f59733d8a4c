"""Handwritten digits that come with scikit-learn (Alpaydin and Kaynak, 1998, https://archive.ics.uci.edu/dataset/80)."""

import torch

from zoo.data.base import OpenData
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.splits import ArraySplit
from zoo.registry import DATASETS
from zoo.specs import DataSpec

LABELS = tuple("0123456789")
MEAN, STD = 0.306, 0.376  # of the training split, on the scale 0 to 1
TEST_EVERY, VALIDATION_EVERY = 5, 10


@DATASETS.register("digits")
class Digits:
    """1,797 grey images of 8 x 8 pixels in 10 classes; installed with scikit-learn, so nothing is fetched.

    The split is by the image's number i in scikit-learn's order: test where i % 5 == 4, validation where i % 10 == 0, training otherwise.
    Writers are not told apart there, so the same hand may occur in several splits.

    Args:
        image_size: side that the images are resized to, in pixels.
    """

    def __init__(self, *, image_size: int = 8) -> None:
        self.image = ImageCodec(name="image", channels=1, size=(image_size, image_size), mean=(MEAN,), std=(STD,))

    def sketch(self) -> DataSpec:
        return DataSpec(inputs=(self.image.spec,), targets=(ClassCodec(name="label", labels=LABELS).spec.sketched("counts"),))

    def open(self) -> OpenData:
        from sklearn.datasets import load_digits  # takes a second, which no other data should pay

        source = load_digits()
        images = torch.from_numpy(source.images * (255 / 16)).round().to(torch.uint8)[:, None]  # 0 .. 16 -> 0 .. 255, S 1 8 8
        labels = torch.from_numpy(source.target).to(torch.int64)
        number = torch.arange(len(labels))
        test, validation = number % TEST_EVERY == TEST_EVERY - 1, number % VALIDATION_EVERY == 0
        rows = {"train": ~test & ~validation, "validation": validation, "test": test}
        splits = {
            name: ArraySplit({"image": images[chosen], "label": labels[chosen]}, labels={"label": LABELS}, what=f"{name} image")
            for name, chosen in rows.items()
        }
        counts = labels[rows["train"]].bincount(minlength=len(LABELS)).tolist()
        return OpenData(
            inputs={"image": self.image},
            targets={"label": ClassCodec(name="label", labels=LABELS, counts=counts)},
            splits=dict(splits),
            notes={
                "source": "Optical Recognition of Handwritten Digits (UCI), as installed with scikit-learn; CC BY 4.0",
                "split": f"by number i: i % 5 == 4 tests ({test.sum()}), i % 10 == 0 validates ({validation.sum()}), the rest ({sum(counts)}) trains",
            },
        )
