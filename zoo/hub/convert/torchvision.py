"""torchvision's published weights (https://docs.pytorch.org/vision/stable/models.html): tensors by its names, labels and preparation by its own records."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.data.codecs.image import Filter, Fit, ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, read_all, write_all
from zoo.hub.convert.snapshot import Snapshot, different
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle


@CONVERTERS.register("torchvision")
class TorchvisionConverter:
    """Classifiers in torchvision's own layout.

    Args:
        model: torchvision's name of the architecture.
        weights: its name of the weights, e.g. IMAGENET1K_V1: their labels and preparation; DEFAULT for its best.
    """

    model_types: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, model: str, weights: str = "DEFAULT") -> None:
        self.model, self.weights = model, weights

    def read(self, snapshot: Snapshot) -> Foreign:
        known = entry(self.model, self.weights)
        state, report = read_all(rules(self.model), {_modern(name): value for name, value in snapshot.tensors.items()}, unused={}, where=snapshot.name)
        count = state["head.classifier.weight"].shape[0]
        labels = known.meta.get("categories") or []
        if len(labels) != count:
            raise CheckpointError(f"{snapshot.name}: {count} outputs, where torchvision's record of {known} names {len(labels)}")
        target = ClassCodec(name="label", labels=different(labels))
        model: dict[str, Any] = {"encoder": {"name": "torchvision", "model": self.model}, "head": {"name": "classification"}}
        return Foreign(Processor({"image": image_codec(known, snapshot.name)}, {"label": target}), model, state, report)

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        from safetensors.torch import save_file

        model = loaded.bundle.config["model"]
        names, encoder = [model[part]["name"] for part in ("encoder", "decoder", "head")], model["encoder"]
        state = loaded.model.state_dict()
        if names != ["torchvision", "none", "classification"]:
            raise CheckpointError(
                f"the model has no place in torchvision's layout: it is {' -> '.join(names)}, where torchvision -> none -> classification is needed\n"
                "  way out: zoo export without --as, a bundle of zoo's"
            )
        folder.mkdir(parents=True, exist_ok=True)
        save_file(write_all(rules(encoder["model"]), state), folder / "model.safetensors", metadata={"format": "pt"})


def rules(model: str) -> list[Rule]:
    """Names of zoo's tensors and torchvision's.

    Raises:
        CheckpointError: for an architecture that it does not have.
    """
    import torch
    from torchvision import models

    from zoo.encoders.torchvision import classifiers, cut_last

    if model not in classifiers():
        raise CheckpointError(f"model={model!r} is no classifier of torchvision")
    with torch.device("meta"):
        built = models.get_model(model, weights=None)
        names = list(built.state_dict())
        last, _ = cut_last(built)
    return [One(f"head.classifier.{name.rpartition('.')[2]}" if name.startswith(f"{last}.") else f"encoder.model.{name}", name) for name in names]


def entry(model: str, weights: str) -> Any:
    """torchvision's record of some weights.

    Raises:
        CheckpointError: for weights that it does not have.
    """
    from torchvision import models

    try:
        return models.get_model_weights(model)[weights]
    except (ValueError, KeyError):
        raise CheckpointError(f"torchvision has no weights {weights!r} of {model!r}") from None


def image_codec(known: Any, name: str) -> ImageCodec:
    """As torchvision's own evaluation prepares an image.

    Raises:
        CheckpointError: for a step that zoo does not have.
    """
    prepared = known.transforms()
    size, wide, kind = prepared.crop_size[0], prepared.resize_size[0], prepared.interpolation.value
    if kind not in list(Filter):
        raise CheckpointError(f"{name}: torchvision prepares its images with {kind}, which is not known here")
    return ImageCodec(
        name="image",
        channels=3,
        size=(size, size),
        mean=tuple(prepared.mean),
        std=tuple(prepared.std),
        fit=Fit.CROP,
        filter=Filter(kind),
        crop=min(1.0, size / wide),
    )


def _modern(name: str) -> str:
    """The densenets' first names, which torchvision rewrites when it loads them."""
    import re

    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.)", r"\1\2", name)
