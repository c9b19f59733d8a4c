"""Images: whatever a person has (a file, a PIL image, an array) -> uint8 pixels of one size -> normalised floats.

Letters: B batch, C channels (1 or 3), H W pixels.
"""

import struct
from collections.abc import Mapping
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from zoo.data.base import Encoded
from zoo.data.codecs.state import list_of, strict
from zoo.data.suffixes import IMAGES
from zoo.errors import CheckpointError, DataError
from zoo.specs import ImageInput
from zoo.structs import Values


class Fit(StrEnum):
    CROP = "crop"
    PAD = "pad"
    STRETCH = "stretch"


class Filter(StrEnum):
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class ImageCodec:
    """Decode, resize with an antialiased filter, keep as uint8; normalise the finished batch.

    Transparency is laid on white, EXIF rotation is applied, 16 bit and float images are scaled to 8 bit.

    Args:
        name: of the input.
        channels: 1 for grey, 3 for RGB.
        size: height and width, in pixels.
        mean: of each channel on the scale 0 to 1; one figure serves all channels.
        std: likewise.
        fit: crop covers the frame and cuts the middle out; pad shows the whole image on black; stretch changes its proportions.
        filter: bilinear or bicubic.
        crop: with fit=crop, the share of the shorter side that is left, above 0 and up to 1; ImageNet's models take .875 and more. With fit=stretch, of both.
    """

    kind: ClassVar[str] = "image"
    suffixes: ClassVar[tuple[str, ...]] = IMAGES
    ragged: ClassVar[str | None] = None
    pad: int = 0

    def __init__(
        self,
        *,
        name: str,
        channels: int,
        size: tuple[int, int],
        mean: tuple[float, ...] = (0.5,),
        std: tuple[float, ...] = (0.5,),
        fit: Fit = Fit.CROP,
        filter: Filter = Filter.BILINEAR,
        crop: float = 1.0,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"image_channels={channels}: an image has 1 (grey) or 3 (RGB)")
        if min(size) < 1:
            raise ValueError(f"image_size={list(size)} has to be 1 or more pixels each way")
        for option, figures in (("mean", mean), ("std", std)):
            if len(figures) not in (1, channels):
                raise ValueError(f"{option} has {len(figures)} figures for {channels} channels; give 1 or {channels}")
        if min(std) <= 0:
            raise ValueError(f"std={list(std)}: each figure has to be above 0")
        if not 0 < crop <= 1 or (crop < 1 and fit is Fit.PAD):
            raise ValueError(f"crop={crop} with fit={fit}: a share above 0 and up to 1 is needed, and fit=crop or fit=stretch for one below 1")
        self.name, self.channels, self.size, self.mean, self.std, self.fit = name, channels, (size[0], size[1]), tuple(mean), tuple(std), fit
        self.filter, self.crop = filter, crop
        self.spec = ImageInput(name=name, channels=channels, height=size[0], width=size[1])

    def encode(self, raw: Any) -> Encoded:
        """A path, bytes, PIL image, array (H W, or H W C; uint8, uint16 or float in 0 .. 1), or tensor (H W, or C H W) -> uint8 C H W."""
        return {"values": self._resize(self._channels(_pixels(raw)))}

    def encode_all(self, images: Tensor) -> Tensor:
        """Many images at once: uint8 S C H W."""
        if images.shape[1] != self.channels:
            images = torch.stack([self._channels(image) for image in images])
        return images if tuple(images.shape[2:]) == self.size and self.crop == 1 else torch.cat([self._resize(chunk) for chunk in images.split(4096)])

    def finish(self, values: Values) -> Values:
        assert isinstance(values.values, Tensor)
        mean = torch.tensor(self.mean).view(-1, 1, 1) * 255
        scale = 1 / (torch.tensor(self.std).view(-1, 1, 1) * 255)
        return Values(values.values.to(torch.float32).sub_(mean).mul_(scale), values.mask)  # B C H W

    def state(self) -> dict[str, Any]:
        frame = {"channels": self.channels, "size": list(self.size), "mean": list(self.mean), "std": list(self.std), "fit": str(self.fit)}
        return frame | {"filter": str(self.filter), "crop": self.crop}

    def save_files(self, folder: Path) -> None:
        pass

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "ImageCodec":  # noqa: ARG003
        # Bundles of zoo 0.1.0 have neither filter nor crop.
        state = strict({"filter": "bilinear", "crop": 1.0, **state}, name, channels=int, size=list, mean=list, std=list, fit=str, filter=str, crop=float)
        size = list_of(state["size"], int, f"{name}.size")
        if len(size) != 2 or state["fit"] not in list(Fit) or state["filter"] not in list(Filter):
            raise CheckpointError(
                f"processor.json: {name} has size {size}, fit {state['fit']!r} and filter {state['filter']!r}; expected [height, width], "
                f"one of {', '.join(Fit)}, and one of {', '.join(Filter)}"
            )
        mean, std = (tuple(map(float, list_of(state[key], float, f"{name}.{key}"))) for key in ("mean", "std"))
        return cls(
            name=name,
            channels=state["channels"],
            size=(size[0], size[1]),
            mean=mean,
            std=std,
            fit=Fit(state["fit"]),
            filter=Filter(state["filter"]),
            crop=state["crop"],
        )

    def _channels(self, image: Tensor) -> Tensor:
        if image.shape[0] == self.channels:
            return image
        if self.channels == 3:
            return image.expand(3, -1, -1)
        # ITU-R 601 luma with PIL's integer weights, so that grey does not depend on whether PIL or this did it
        weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)
        return ((image.to(torch.int32) * weights).sum(0, keepdim=True).add_(0x8000) >> 16).to(torch.uint8)

    def _resize(self, image: Tensor) -> Tensor:
        """... C H W uint8 of any size -> the codec's size."""
        height, width = image.shape[-2:]
        if (height, width) == self.size and self.crop == 1:
            return image
        frame = int(self.size[0] / self.crop + 1e-6), int(self.size[1] / self.crop + 1e-6)  # 224 / (224 / 232) is not quite 232
        scales = frame[0] / height, frame[1] / width
        match self.fit:
            case Fit.STRETCH:
                inner = frame
            case Fit.CROP:
                scale = max(scales)
                inner = max(frame[0], int(height * scale)), max(frame[1], int(width * scale))
            case Fit.PAD:
                scale = min(scales)
                inner = max(1, min(self.size[0], round(height * scale))), max(1, min(self.size[1], round(width * scale)))
        image = self._scaled(image, inner)
        top, left = round((inner[0] - self.size[0]) / 2), round((inner[1] - self.size[1]) / 2)
        if self.fit is not Fit.PAD:
            return image[..., top : top + self.size[0], left : left + self.size[1]].contiguous()
        return F.pad(image, (-left, self.size[1] - inner[1] + left, -top, self.size[0] - inner[0] + top))

    def _scaled(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(image.shape[-2:]) == size:
            return image
        batch = image if image.dim() == 4 else image[None]
        # channels-last takes torch's vectorised uint8 path, which is a few times faster and the same to the bit
        batch = batch.contiguous(memory_format=torch.channels_last)
        batch = F.interpolate(batch, size=size, mode=str(self.filter), antialias=True, align_corners=False).contiguous()
        return batch if image.dim() == 4 else batch[0]


def _pixels(raw: Any) -> Tensor:
    """uint8 C H W, C being 1 or 3."""
    match raw:
        case str() | Path() | bytes():
            return _from_pil(_decode(raw))
        case Image.Image():
            return _from_pil(raw)
        case np.ndarray():
            array = np.ascontiguousarray(raw)
            if array.dtype == np.uint16:
                array = (array >> 8).astype(np.uint8)
            tensor = torch.from_numpy(array.copy())
            return _from_tensor(tensor.permute(2, 0, 1) if tensor.dim() == 3 else tensor)
        case Tensor():
            return _from_tensor(raw)
    raise DataError(f"an image is a path, bytes, a PIL image, an array or a tensor, not {type(raw).__name__}")


def _decode(raw: str | Path | bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(raw) if isinstance(raw, bytes) else raw)
        image.load()
    except FileNotFoundError:
        raise DataError(f"no image file at {raw!s}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL raises all of these for damaged files
        raise DataError(f"cannot be decoded as an image: {type(error).__name__}: {error}") from error
    return image


def _from_pil(image: Image.Image) -> Tensor:
    try:
        return _from_upright(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, struct.error) as error:  # damaged EXIF, a truncated lazy image, a mode that PIL cannot convert
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot be decoded as an image: {type(error).__name__}: {error}") from error


def _from_upright(image: Image.Image) -> Tensor:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1).contiguous()


def _from_deep(image: Image.Image) -> Tensor:
    """Grey of 16 bit, 32 bit or float."""
    array = np.asarray(image).astype(np.float64)
    if not np.isfinite(array).all() or array.min() < 0:
        raise DataError("pixels are negative or not finite")
    top = array.max()
    if image.mode == "F" and top > 1:
        raise DataError(f"a float image has to lie in 0 .. 1, its largest pixel is {top:g}")
    if top > 65535:
        raise DataError(f"the largest pixel is {top:g}, more than 16 bit hold")
    scaled = array * 255 if image.mode == "F" else array // 256
    return torch.from_numpy(np.round(scaled).astype(np.uint8))[None]


def _from_tensor(tensor: Tensor) -> Tensor:
    tensor = tensor[None] if tensor.dim() == 2 else tensor
    if tensor.dim() != 3 or tensor.shape[0] not in (1, 2, 3, 4) or tensor.numel() == 0:
        raise DataError(f"pixels of shape {list(tensor.shape)} are no image: expected H W, C H W (tensors) or H W C (arrays), C from 1 to 4")
    if tensor.is_floating_point():
        if not bool(torch.isfinite(tensor).all()) or float(tensor.min()) < 0 or float(tensor.max()) > 1:
            raise DataError("float pixels have to be finite and lie in 0 .. 1")
        tensor = (tensor * 255).round().to(torch.uint8)
    if tensor.dtype is not torch.uint8:
        raise DataError(f"pixels of type {tensor.dtype}: expected uint8, uint16 arrays, or floats in 0 .. 1")
    if tensor.shape[0] in (2, 4):  # the last channel is opacity
        alpha = tensor[-1:].to(torch.float32) / 255
        tensor = (tensor[:-1] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    return tensor.contiguous()
