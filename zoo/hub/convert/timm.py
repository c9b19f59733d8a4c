"""timm's layout (https://huggingface.co/docs/timm): ``config.json`` with the architecture's name and how its images were prepared, tensors by timm's names.

A plain Vision Transformer becomes zoo's own; every other architecture stays timm's, inside the encoder ``timm``.

Letters: C classes.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from zoo.data.codecs.image import Filter, Fit, ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.pair import PairCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, blocks, layer, patches, read_all, squeezed, stacked, write_all
from zoo.hub.convert.snapshot import Snapshot
from zoo.hub.convert.timm_network import arithmetic, built, classifier_of, pooling_of, why_no_plain_vit
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.hub.bundle import LoadedBundle

PLAIN = "vit_base_patch16_224"
"""The architecture that a ViT of zoo's is written as: its sizes all follow from model_args."""


class As(StrEnum):
    AUTO = "auto"
    VIT = "vit"
    TIMM = "timm"


@CONVERTERS.register("timm")
class TimmConverter:
    """Models in timm's own layout: classifiers and encoders of images.

    Args:
        encoder: auto (zoo's vit where the model is a plain one, else timm), vit, or timm.
        model: timm's name of the architecture; empty takes config.json's.
        labels: of the classifier: empty takes config.json's, imagenet the names of its 1,000 classes.
    """

    model_types: ClassVar[tuple[str, ...]] = ("timm",)

    def __init__(self, *, encoder: As = As.AUTO, model: str = "", labels: str = "") -> None:
        self.encoder, self.model, self.labels = encoder, model, labels

    def read(self, snapshot: Snapshot) -> Foreign:
        config = snapshot.config if (snapshot.folder / "config.json").is_file() else {}
        model = self.model or config.get("architecture")
        if not isinstance(model, str):
            raise CheckpointError(f"{snapshot.name}: no config.json says which architecture it is\n  way out: the converter's option model=NAME")
        prepared = {**default_cfg(model), **(config.get("pretrained_cfg") or {})}
        codec, tensors = image_codec(prepared, snapshot.name), snapshot.tensors
        arguments = arguments_of(config, model, codec, snapshot.name)
        network = built(model, arguments, classes=2, where=snapshot.name)
        classifier = classifier_of(network)
        if classifier is None or f"{classifier}.weight" not in tensors:
            network, classifier = built(model, arguments, classes=0, where=snapshot.name), None
        why = why_no_plain_vit(network)
        if self.encoder is As.VIT and why is not None:
            raise CheckpointError(f"{snapshot.name}: {model}: {why}, which zoo's vit has not\n  way out: the converter's option encoder=timm")
        if why is None and self.encoder is not As.TIMM:
            encoder = vit_node(network, arguments.get("init_values"))
            found = vit_rules(encoder, classifies=classifier is not None)
        else:
            refuse_lost_arguments(model, arguments, codec, snapshot.name)
            encoder, found = {"name": "timm", "model": model}, timm_rules(network, classifier)
        state, report = read_all(found, tensors, unused={}, where=snapshot.name)
        target: Any = PairCodec(name="pair")
        head: dict[str, Any] = {"name": "embedding"}
        if classifier is not None:
            count = state["head.classifier.weight"].shape[0]
            target, head = ClassCodec(name="label", labels=label_names(config, count, snapshot.name, self.labels)), {"name": "classification"}
        floats = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        return Foreign(Processor({"image": codec}, {target.spec.name: target}), {"encoder": encoder, "head": head}, floats, report)

    def write(self, loaded: "LoadedBundle", folder: "Path") -> None:
        import json

        from safetensors.torch import save_file

        model = loaded.bundle.config["model"]
        encoder = model["encoder"]
        refuse_other_parts(model)
        codec: Any = loaded.processor.inputs[loaded.bundle.input.name]
        prepared = foreign_preparation(codec)
        target: Any = loaded.processor.targets[next(iter(loaded.processor.targets))]
        classes = target.spec.num_classes if model["head"]["name"] == "classification" else 0
        own = encoder["name"] == "vit"
        name, arguments = (PLAIN, vit_arguments(encoder, codec)) if own else (encoder["model"].partition(".")[0], of_image(encoder["model"], codec))
        network = built(name, arguments, classes=classes, where="the model")
        if classes and (classifier_of(network)) is None:
            raise CheckpointError(f"the model has no place in timm's layout: {name} classifies by several layers there, and by one here")
        rules = vit_rules(encoder, classifies=classes > 0) if own else timm_rules(network, classifier_of(network) if classes else None)
        tensors = write_all(rules, loaded.model.state_dict())
        refuse_other_shapes(name, network, tensors)
        config = {"architecture": name, "num_classes": classes, "model_args": arguments, "pretrained_cfg": prepared}
        if classes:
            config["label_names"] = list(target.spec.labels)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def label_names(config: Mapping[str, Any], count: int, name: str, wanted: str = "") -> tuple[str, ...]:
    """Names of a classifier's outputs: the config's, ImageNet's where asked for or where there are a thousand without a name, else numbers.

    Raises:
        CheckpointError: where they are not as many as the outputs.
    """
    told = config.get("label_names") or (config.get("pretrained_cfg") or {}).get("label_names")
    if wanted not in ("", "imagenet"):
        raise CheckpointError(f"{name}: labels={wanted!r} is not known; imagenet is")
    if wanted == "imagenet" or (not told and count == 1000):
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        told = _different([info.index_to_description(place) for place in range(info.num_classes())], info.label_names())
    if not told:
        return tuple(f"class_{place}" for place in range(count))
    if not isinstance(told, list) or len(told) != count or len({str(label) for label in told}) != count:
        raise CheckpointError(f"{name}: label_names has to name {count} different outputs, and has {len(told)}")
    return tuple(map(str, told))


def of_image(model: str, codec: ImageCodec) -> dict[str, Any]:
    """What the encoder ``timm`` tells a network of its images."""
    fixed = {"img_size": list(codec.size)} if default_cfg(model).get("fixed_input_size") else {}
    return {"in_chans": codec.channels, **fixed}


def arguments_of(config: Mapping[str, Any], model: str, codec: ImageCodec, where: str) -> dict[str, Any]:
    """What a checkpoint's network is built with: model_args, and the pooling that stands beside them in files that timm wrote.

    Raises:
        CheckpointError: for arguments that are none.
    """
    given = config.get("model_args") or {}
    if not isinstance(given, dict):
        raise CheckpointError(f"{where}: config.json: model_args is {given!r}, where a mapping is needed")
    arguments = of_image(model, codec) | {name: value for name, value in given.items() if name != "num_classes"}
    pool = config.get("global_pool")
    if pool and "global_pool" not in given and pooling_of(built(model, arguments, classes=0, where=where)) not in (None, pool):
        arguments["global_pool"] = pool
    return arguments


def refuse_lost_arguments(model: str, arguments: Mapping[str, Any], codec: ImageCodec, where: str) -> None:
    """The encoder ``timm`` builds an architecture by its name alone, so that arguments that change its arithmetic would be lost.

    Raises:
        CheckpointError: where they do.
    """
    import torch

    from zoo.encoders.timm import TimmModel

    told = arithmetic(built(model, arguments, classes=0, where=where))
    try:
        with torch.device("meta"):
            ours = arithmetic(TimmModel(image=codec.spec, model=model).model)
    except ValueError as error:  # sizes that only the arguments make fit
        ours = {"refused": error}
    if ours != told:
        given = {name: value for name, value in arguments.items() if name not in of_image(model, codec)}
        raise CheckpointError(
            f"{where}: config.json asks for {model} with {given or dict(arguments)}, which is neither zoo's vit nor what timm builds by that name alone: its "
            "numbers would be others; refused\n  way out: a checkpoint whose architecture has a name of its own in timm"
        )


def vit_node(network: Any, init_values: float | None) -> dict[str, Any]:
    """zoo's encoder for a plain ViT of timm."""
    block, dim = network.blocks[0], network.embed_dim
    pooled = not isinstance(network.fc_norm, nn.Identity)
    mean = "patches" if network.has_class_token else "mean"
    return {
        "name": "vit",
        "dim": dim,
        "depth": len(network.blocks),
        "heads": block.attn.num_heads,
        "patch_size": network.patch_embed.patch_size[0],
        "mlp_ratio": block.mlp.fc1.out_features / dim,
        "pool": "cls" if network.global_pool == "token" else mean,
        "final_norm": "pooled" if pooled else "tokens",
        "qkv_bias": "without" if block.attn.qkv.bias is None else "with",
        "layer_scale": 0.0 if isinstance(block.ls1, nn.Identity) else float(init_values or 1e-5),
        "norm_eps": float(block.norm1.eps),
    }


def timm_rules(network: nn.Module, classifier: str | None) -> list[Rule]:
    """Names of the tensors of the encoder ``timm``, and timm's. Some of its classifiers are convolutions of one pixel, and zoo's are linear."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found: list[Rule] = []
    for name in shapes:
        if classifier is None or not name.startswith(f"{classifier}."):
            found.append(One(f"encoder.model.{name}", name))
    for kind in ("weight", "bias") if classifier is not None else ():
        ones = (1,) * (len(shapes.get(f"{classifier}.{kind}", ())) - (2 if kind == "weight" else 1))
        found.append(
            One(
                f"head.classifier.{kind}",
                f"{classifier}.{kind}",
                lambda value: value.flatten(1) if value.dim() > 1 else value,
                lambda value, ones=ones: value.reshape(*value.shape, *ones),  # type: ignore[misc]
            )
        )
    return found


def vit_rules(encoder: Mapping[str, Any], *, classifies: bool) -> list[Rule]:
    """Names of zoo's tensors and those of timm's VisionTransformer."""
    ours, theirs = "encoder.blocks.{n}", "blocks.{n}"
    kinds = ("weight", "bias") if encoder["qkv_bias"] == "with" else ("weight",)
    scales = [One(f"{ours}.scale{n}.weight", f"{theirs}.ls{n}.gamma") for n in (1, 2)] if encoder["layer_scale"] else []
    found: list[Rule] = [
        *([One("encoder.cls", "cls_token")] if encoder["pool"] != "mean" else []),
        squeezed("encoder.positions.weight", "pos_embed"),
        *patches("encoder.patches.proj", "patch_embed.proj", encoder["patch_size"]),
        *blocks(
            encoder["depth"],
            [
                *layer(f"{ours}.norm1", f"{theirs}.norm1"),
                *stacked(f"{ours}.attention.qkv", [f"{theirs}.attn.qkv"], encoder["heads"], *kinds),
                *layer(f"{ours}.attention.proj", f"{theirs}.attn.proj"),
                *layer(f"{ours}.norm2", f"{theirs}.norm2"),
                *layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1"),
                *layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2"),
                *scales,
            ],
        ),
        *layer("encoder.norm", "fc_norm" if encoder["final_norm"] == "pooled" else "norm"),
    ]
    return [*found, *layer("head.classifier", "head")] if classifies else found


def vit_arguments(encoder: Mapping[str, Any], codec: ImageCodec) -> dict[str, Any]:
    """What timm's VisionTransformer is built with.

    Raises:
        CheckpointError: for a ViT that timm has not.
    """
    needed = {"placement": "pre", "activation": "gelu", "norm_eps": 1e-6}
    if wrong := [f"model.encoder.{key} is {encoder[key]}, where {value} is needed" for key, value in needed.items() if encoder[key] != value]:
        raise CheckpointError("the model has no place in timm's layout:\n  " + "\n  ".join(wrong))
    hidden = round(encoder["mlp_ratio"] * encoder["dim"])
    ratio = hidden / encoder["dim"]
    while int(encoder["dim"] * ratio) < hidden:  # timm cuts off where zoo rounds
        ratio = math.nextafter(ratio, math.inf)
    return {
        "img_size": list(codec.size),
        "patch_size": encoder["patch_size"],
        "in_chans": codec.channels,
        "embed_dim": encoder["dim"],
        "depth": encoder["depth"],
        "num_heads": encoder["heads"],
        "mlp_ratio": ratio,
        "qkv_bias": encoder["qkv_bias"] == "with",
        "global_pool": "token" if encoder["pool"] == "cls" else "avg",
        "class_token": encoder["pool"] != "mean",
        "fc_norm": encoder["final_norm"] == "pooled",
        "init_values": encoder["layer_scale"] or None,
    }


def refuse_other_parts(model: Mapping[str, Any]) -> None:
    """Raises:
    CheckpointError: for a model with parts that timm's layout has no place for; says every difference.
    """
    encoder, decoder, head = model["encoder"], model["decoder"], model["head"]
    wrong = []
    if encoder["name"] not in ("vit", "timm") or decoder["name"] != "none" or head["name"] not in ("classification", "embedding"):
        wrong.append(f"it is {encoder['name']} -> {decoder['name']} -> {head['name']}, where vit or timm -> none -> classification or embedding is needed")
    else:
        own = encoder["pool"] if encoder["name"] == "vit" and encoder["final_norm"] == "tokens" and encoder["pool"] != "patches" else "auto"
        if head["pooling"] not in ("auto", own):
            wrong.append(f"model.head.pooling is {head['pooling']}, where auto, the encoder's own pooling, is needed: timm pools in no other way")
        if head.get("dim"):
            wrong.append(f"model.head.dim is {head['dim']}, where 0 is needed: timm has no layer after the pooling")
        if encoder.get("output", "pooled") != "pooled":
            wrong.append(f"model.encoder.output is {encoder['output']}, where pooled is needed")
    if wrong:
        raise CheckpointError("the model has no place in timm's layout:\n  " + "\n  ".join(wrong) + "\n  way out: zoo export without --as, a bundle of zoo's")


def refuse_other_shapes(name: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises:
    CheckpointError: where timm's network would not load the tensors, whole.
    """
    wanted = {key: list(value.shape) for key, value in network.state_dict().items()}
    found = {key: list(value.shape) for key, value in tensors.items()}
    if wrong := sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)):
        lines = [f"  {key}: {found.get(key, 'missing')} here, {wanted.get(key, 'missing')} there" for key in wrong[:8]]
        raise CheckpointError(f"the model has no place in timm's layout: {len(wrong)} tensors are not those of {name}\n" + "\n".join(lines))


def image_codec(prepared: Mapping[str, Any], name: str) -> ImageCodec:
    """As timm's own evaluation prepares an image.

    Raises:
        CheckpointError: for a step that zoo does not have.
    """
    channels, height, width = prepared.get("input_size", (3, 224, 224))
    mode, kind = str(prepared.get("crop_mode") or "center"), str(prepared.get("interpolation") or "bicubic")
    fit = {"center": Fit.CROP, "squash": Fit.STRETCH}.get(mode)
    if fit is None or kind not in list(Filter):
        raise CheckpointError(
            f"{name}: crop_mode={mode!r}, interpolation={kind!r}: zoo prepares images by center or squash, {' or '.join(Filter)}; by others every answer would "
            "be a little wrong\n  way out: a checkpoint whose pretrained_cfg has one of these (border pads with the mean colour, which zoo does not)"
        )
    mean, std = (tuple(map(float, prepared.get(key) or (0.5,))) for key in ("mean", "std"))
    crop = float(prepared.get("crop_pct") or 0.875)
    return ImageCodec(name="image", channels=channels, size=(height, width), mean=mean, std=std, fit=fit, filter=Filter(kind), crop=crop)


def foreign_preparation(codec: ImageCodec) -> dict[str, Any]:
    """pretrained_cfg.

    Raises:
        CheckpointError: for a fit that timm does otherwise.
    """
    if codec.fit is Fit.PAD:
        raise CheckpointError(
            "the images have fit=pad, on black; timm's border pads with the mean colour, so that its answers would be others\n"
            "  way out: a model of fit=crop or fit=stretch, or zoo export without --as"
        )
    return {
        "input_size": [codec.channels, *codec.size],
        "mean": list(codec.mean) * (codec.channels if len(codec.mean) == 1 else 1),
        "std": list(codec.std) * (codec.channels if len(codec.std) == 1 else 1),
        "interpolation": str(codec.filter),
        "crop_pct": codec.crop,
        "crop_mode": {Fit.CROP: "center", Fit.STRETCH: "squash"}[codec.fit],
    }


def default_cfg(model: str) -> dict[str, Any]:
    """What timm knows about an architecture; nothing of one that it does not know."""
    import timm

    found = timm.get_pretrained_cfg(model, allow_unregistered=True)
    return dict(found.to_dict()) if found is not None else {}


def _different(labels: list[str], others: list[str]) -> list[str]:
    """Labels, with a number of their class where several are called the same."""
    return [label if labels.count(label) == 1 else f"{label} ({other})" for label, other in zip(labels, others, strict=True)]
