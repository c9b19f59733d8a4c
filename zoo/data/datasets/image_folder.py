"""Folders of images, one folder a class."""

from pathlib import Path

from zoo.data.base import OpenData
from zoo.data.codecs.image import Fit, ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.files import find_files, folder_splits, labelled_files
from zoo.data.splits import check_fractions, hash_split
from zoo.errors import DataError
from zoo.files import home
from zoo.registry import DATASETS
from zoo.specs import DataSpec


@DATASETS.register("image_folder")
class ImageFolder:
    """Image classification from files: `root/train/CLASS/*`, with `root/validation` (or `val`) and `root/test` beside it; or `root/CLASS/*`, split by hash.

    The hash is BLAKE2b of the path below root, so that a file stays in its split when others come and go. Files may lie deeper than
    their class's folder.

    Args:
        root: the folder.
        image_size: side that images are resized to, in pixels.
        channels: 3 for colour, 1 for grey.
        fit: crop covers the square and cuts the middle out; pad shows the whole image on black; stretch changes its proportions.
        mean: of each channel on the scale 0 to 1; one figure serves all. The default is ImageNet's.
        std: likewise.
        validation: part of the images that validates, where root has no folders of splits.
        test: part of the images that tests, likewise.
    """

    def __init__(
        self,
        *,
        root: str,
        image_size: int = 64,
        channels: int = 3,
        fit: Fit = Fit.CROP,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        validation: float = 0.1,
        test: float = 0.1,
    ) -> None:
        check_fractions(validation, test)
        if channels == 1 and len(mean) == len(std) == 3:
            mean, std = (sum(mean) / 3,), (sum(std) / 3,)
        self.root, self.validation, self.test = root, validation, test
        self.image = ImageCodec(name="image", channels=channels, size=(image_size, image_size), mean=mean, std=std, fit=fit)

    def sketch(self) -> DataSpec:
        return DataSpec(inputs=(self.image.spec,), targets=(ClassCodec(name="label", labels=("a", "b")).spec.sketched("labels", "counts"),))

    def open(self) -> OpenData:
        root = home(self.root)
        paths = find_files(root, ImageCodec.suffixes)
        rows = folder_splits(paths)
        if rows is None:
            rule = f"by hash of the path: test {self.test:g}, validation {self.validation:g}"
            labels = [path.split("/")[0] if "/" in path else "" for path in paths]
        else:
            rule = "by folder"
            labels = [parts[1] if len(parts := path.split("/")) > 2 else "" for path in paths]
        if loose := [path for path, label in zip(paths, labels, strict=True) if not label]:
            raise DataError(f"{root}: {len(loose)} images lie in no class's folder, e.g. {loose[0]}; expected {root}/CLASS/* or {root}/train/CLASS/*")
        if not paths:
            raise DataError(f"{root} holds no image ({', '.join(ImageCodec.suffixes)})")
        splits = labelled_files(
            root=root, paths=paths, labels=labels, splits=rows or hash_split(paths, validation=self.validation, test=self.test), input="image"
        )
        train = splits["train"]
        return OpenData(
            inputs={"image": self.image},
            targets={"label": ClassCodec(name="label", labels=train.names, counts=train.counts())},
            splits=splits,
            notes={"source": f"images of {Path(root).name}", "split": f"{rule}; {', '.join(f'{name} {len(part)}' for name, part in splits.items())}"},
        )
