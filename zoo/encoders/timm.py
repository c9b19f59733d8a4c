"""Any image model of timm (Wightman, 2019, https://github.com/huggingface/pytorch-image-models) as an encoder.

Letters: B images, C channels, H W pixels, D width.
"""

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import did_you_mean
from zoo.fetching import may_fetch
from zoo.layers.dropout import check_probability
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, ImageInput, Layout, MapSpec
from zoo.structs import Features


class Weights(StrEnum):
    RANDOM = "random"
    PRETRAINED = "pretrained"


class Output(StrEnum):
    POOLED = "pooled"
    MAPS = "maps"


@ENCODERS.register("timm")
class TimmModel(nn.Module):
    """A model of timm by its name, without its classifier.

    Many of timm's convolutional models have batch norm, with which the numbers of training depend on how a batch is split.

    Args:
        image: filled from the data's spec; the first convolution takes its channels.
        model: timm's name, with a weights tag or without, e.g. resnet18, vit_small_patch16_224.augreg_in21k (`timm.list_models()`).
        weights: random, or pretrained (downloaded by timm, once).
        output: pooled (one vector an image), or maps (the model's feature maps, finest first; for models that have them).
        dropout: probability of leaving out an element before the classifier, where the model has such a place.
        drop_path: stochastic depth, for models that have it; null leaves the model's own default.
    """

    repeats = ()

    def __init__(
        self,
        *,
        image: ImageInput,
        model: str = "resnet18",
        weights: Weights = Weights.RANDOM,
        output: Output = Output.POOLED,
        dropout: float = 0.0,
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        timm = import_timm()
        if not timm.is_model(model):
            raise ValueError(f"model={model!r} is no model of timm {timm.__version__}; {did_you_mean(model.split('.')[0], timm.list_models())[:300]}")
        check_probability("dropout", dropout)
        check_probability("drop_path", drop_path or 0.0)
        # Under the meta device nothing is downloaded: shapes are all that a check needs.
        fetch = may_fetch() and torch.get_default_device().type != "meta"
        options: dict[str, Any] = {"pretrained": weights is Weights.PRETRAINED and fetch, "in_chans": image.channels}
        if dropout:
            options["drop_rate"] = dropout
        if drop_path is not None:
            options["drop_path_rate"] = drop_path
        if timm.get_pretrained_cfg(model, allow_unregistered=True) and timm.get_pretrained_cfg(model).fixed_input_size:
            options["img_size"] = (image.height, image.width)
        try:
            self.model = timm.create_model(model, **options, **({"features_only": True} if output is Output.MAPS else {"num_classes": 0}))
        except OSError as error:
            if not options["pretrained"]:
                raise
            from zoo.hub.wanted import DownloadError

            raise DownloadError(
                f"timm cannot fetch the weights of model={model!r}: {type(error).__name__}: {error}\n"
                "  way out 1: where there is a network, or ZOO_OFFLINE is not set; HF_ENDPOINT names a mirror\n"
                "  way out 2: model.encoder.weights=random"
            ) from error
        except (TypeError, AssertionError, RuntimeError) as error:  # how timm's constructors refuse an option, a size, or feature maps
            given = ", ".join(f"{name}={value}" for name, value in options.items())
            raise ValueError(
                f"timm cannot build model={model!r} with {given}, output={output}: {error}; change the option that it names, or the image's size"
            ) from error
        patch = getattr(getattr(self.model, "patch_embed", None), "patch_size", (1, 1))
        if image.height % patch[0] or image.width % patch[1]:  # timm would leave out the last rows and columns without a word
            raise ValueError(
                f"the patches of model={model!r}, {patch[0]} x {patch[1]} pixels, do not divide the image, {image.height} x {image.width}; "
                f"choose another image size in the data's options, a multiple of {patch[0]} x {patch[1]}"
            )
        self.output = output
        self.output_spec = self.describe()

    def describe(self) -> FeatureSpec:
        if self.output is Output.MAPS:
            info = self.model.feature_info
            maps = tuple(MapSpec(channels=channels, stride=stride) for channels, stride in zip(info.channels(), info.reduction(), strict=True))
            return FeatureSpec(dim=maps[-1].channels, layout=Layout.MAP, maps=maps)
        return FeatureSpec(dim=getattr(self.model, "head_hidden_size", None) or self.model.num_features, layout=Layout.VECTOR, pooled=True)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Features:
        if self.output is Output.POOLED:
            return Features(pooled=self.model(image))  # B D
        maps = self.model(image)
        channels = [level.channels for level in self.output_spec.maps]
        return Features(
            maps=tuple(level if level.shape[1] == count else level.movedim(-1, 1) for level, count in zip(maps, channels, strict=True))
        )  # some give B H W C


def import_timm() -> Any:
    """timm, which takes seconds to import, so only where it is used."""
    import timm

    return timm
