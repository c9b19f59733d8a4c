"""Any image classifier of torchvision (https://docs.pytorch.org/vision/stable/models.html) as an encoder.

Letters: B images, C channels, H W pixels, D width.
"""

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import did_you_mean
from zoo.fetching import may_fetch
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, ImageInput, Layout
from zoo.structs import Features


class Weights(StrEnum):
    RANDOM = "random"
    PRETRAINED = "pretrained"


@ENCODERS.register("torchvision")
class TorchvisionModel(nn.Module):
    """A classifier of torchvision by its name, without its last layer.

    Many of torchvision's convolutional models have batch norm, with which the numbers of training depend on how a batch is split. timm has most of
    them as well (`timm`, tags tv_in1k), for images of any number of channels.

    Args:
        image: filled from the data's spec; three channels.
        model: torchvision's name, e.g. resnet18, convnext_tiny, vit_b_16 (`torchvision.models.list_models(torchvision.models)`).
        weights: random, or pretrained (torchvision's best, downloaded by it, once).
    """

    repeats = ()

    def __init__(self, *, image: ImageInput, model: str = "resnet18", weights: Weights = Weights.RANDOM) -> None:
        super().__init__()
        from torchvision import models

        known = classifiers()
        if model not in known:
            raise ValueError(f"model={model!r} is no classifier of torchvision; {did_you_mean(model, known)[:300]}")
        if image.channels != 3:
            raise ValueError(f"torchvision's models take images of 3 channels, this data has {image.channels}; choose data.image_channels=3, or encoder=timm")
        # Under the meta device nothing is downloaded: shapes are all that a check needs.
        fetch = weights is Weights.PRETRAINED and may_fetch() and torch.get_default_device().type != "meta"
        if fetch:
            refuse_offline_weights(models.get_model_weights(model).DEFAULT.url)
        options: dict[str, Any] = {"image_size": image.height} if model.startswith("vit_") else {}
        if options and (image.height != image.width or (fetch and image.height != 224)):
            raise ValueError(f"model={model!r} takes square images, of 224 pixels with pretrained weights; this data's are {image.height} x {image.width}")
        try:
            self.model = models.get_model(model, weights="DEFAULT" if fetch else None, **options)
        except (TypeError, ValueError, RuntimeError) as error:  # how torchvision's constructors refuse a size
            raise ValueError(
                f"torchvision cannot build model={model!r} for {image.height} x {image.width} pixels: {error}; choose another image size"
            ) from error
        self.output_spec = FeatureSpec(dim=cut_last(self.model)[1], layout=Layout.VECTOR, pooled=True)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Features:
        return Features(pooled=self.model(image))  # B D


def refuse_offline_weights(url: str) -> None:
    """torch.hub fetches without asking whether it may.

    Raises:
        OfflineError: where the file is not here, and nothing may be fetched.
    """
    from pathlib import Path

    from zoo.hub.wanted import refuse_offline

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not (folder / url.rpartition("/")[2]).is_file():
        refuse_offline(url, None, folder, "the same command")


def classifiers() -> list[str]:
    """torchvision's names of them; detectors and the like stand in modules of their own."""
    from torchvision import models

    # Two have auxiliary outputs in training, and two do not end in a linear layer.
    return [name for name in models.list_models(models) if name not in ("googlenet", "inception_v3") and not name.startswith("squeezenet")]


def cut_last(model: nn.Module) -> tuple[str, int]:
    """Take the classifier's last linear layer out; its name and the width before it."""
    name, layer = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
    model.set_submodule(name, nn.Identity())
    return name, layer.in_features
