"""EfficientNets (Tan and Le, 2019, https://arxiv.org/abs/1905.11946) by the names that PyTorch's first implementation gave their tensors
(https://github.com/lukemelas/EfficientNet-PyTorch), which EfficientNet-Lite's has as well (https://github.com/RangiLyu/EfficientNet-Lite).

The network is timm's, of the same TensorFlow padding; its blocks are numbered by stage there, and through all stages here.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.data.codecs.label import ClassCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, read_all, write_all
from zoo.hub.convert.snapshot import Snapshot
from zoo.hub.convert.timm import default_cfg, image_codec, label_names
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
EXPANDING = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


@CONVERTERS.register("efficientnet")
class EfficientNetConverter:
    """EfficientNets and EfficientNet-Lites in the layout of PyTorch's first implementation: classifiers of images.

    Args:
        model: timm's name of the architecture; those with TensorFlow's padding begin with tf_.
        labels: of the classifier: imagenet for the names of its 1,000 classes; empty numbers them.
    """

    model_types: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, model: str, labels: str = "imagenet") -> None:
        self.model, self.labels = model, labels

    def read(self, snapshot: Snapshot) -> Foreign:
        state, report = read_all(rules(self.model), snapshot.tensors, unused={}, where=snapshot.name)
        count = state["head.classifier.weight"].shape[0]
        target = ClassCodec(name="label", labels=label_names({}, count, snapshot.name, self.labels))
        codec = image_codec(default_cfg(self.model), snapshot.name)
        model: dict[str, Any] = {"encoder": {"name": "timm", "model": self.model}, "head": {"name": "classification"}}
        return Foreign(Processor({"image": codec}, {"label": target}), model, state, report)

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        import torch

        model = loaded.bundle.config["model"]
        names, encoder = [model[part]["name"] for part in ("encoder", "decoder", "head")], model["encoder"]
        if names != ["timm", "none", "classification"] or "efficientnet" not in encoder["model"] or encoder["output"] != "pooled":
            raise CheckpointError(
                f"the model has no place in this layout: it is {' -> '.join(names)}, where timm (of an EfficientNet) -> none -> classification is needed\n"
                "  way out: zoo export without --as, a bundle of zoo's"
            )
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(write_all(rules(encoder["model"]), loaded.model.state_dict()), folder / "pytorch_model.bin")  # this layout has always been a pickle


def rules(model: str) -> list[Rule]:
    """Names of zoo's tensors and the layout's, for an architecture that timm knows.

    Raises:
        CheckpointError: for one that is no EfficientNet.
    """
    import timm
    import torch

    if not timm.is_model(model) or "efficientnet" not in model:
        raise CheckpointError(f"model={model!r} is no EfficientNet of timm's\n  way out: timm.list_models('*efficientnet*')")
    with torch.device("meta"):
        names = list(timm.create_model(model).state_dict())
    found: list[Rule] = []
    for theirs, ours in ENDS.items():
        found += _layer(f"encoder.model.{ours}", theirs)
    found += [One(f"head.classifier.{kind}", f"_fc.{kind}") for kind in ("weight", "bias")]
    places = list(dict.fromkeys(tuple(name.split(".")[1:3]) for name in names if name.startswith("blocks.")))
    for number, place in enumerate(places):
        block = f"blocks.{'.'.join(place)}"
        parts = EXPANDING if f"{block}.conv_pwl.weight" in names else SEPARABLE
        parts = parts | (SQUEEZE if f"{block}.se.conv_reduce.weight" in names else {})
        for theirs, ours in parts.items():
            found += _layer(f"encoder.model.{block}.{ours}", f"_blocks.{number}.{theirs}")
    return found


def _layer(ours: str, theirs: str) -> list[One]:
    kinds = NORM if "bn" in theirs else ("weight", "bias") if "_se_" in theirs else ("weight",)
    return [One(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in kinds]
