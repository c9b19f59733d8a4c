"""timm's layout (https://huggingface.co/docs/timm): ``config.json`` with the architecture's name and how its images were prepared, tensors by timm's names.

A plain Vision Transformer becomes zoo's own; every other architecture stays timm's, inside the encoder ``timm``.

Letters: C classes.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from zoo.data.codecs.image import Filter, Fit, ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.pair import PairCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, blocks, layer, patches, read_all, squeezed, stacked, write_all
from zoo.hub.convert.snapshot import Snapshot
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.hub.bundle import LoadedBundle

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
"""Of the widths that timm's own ViTs have; their tensors do not tell."""


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
        tensors = snapshot.tensors
        plain = why_no_plain_vit(model, tensors) is None
        if self.encoder is As.VIT and not plain:
            raise CheckpointError(f"{snapshot.name}: {why_no_plain_vit(model, tensors)}\n  way out: the converter's option encoder=timm")
        own = plain and self.encoder is not As.TIMM
        if own:
            encoder, found = vit_node(tensors, config, snapshot.name)
            classifier = "head" if "head.weight" in tensors else None
            state, report = read_all(found, tensors, unused={}, where=snapshot.name)
        else:
            encoder = {"name": "timm", "model": model}
            classifier = _classifier(prepared, tensors)
            state = {f"encoder.model.{key}": value for key, value in tensors.items() if classifier is None or not key.startswith(f"{classifier}.")}
            if classifier is not None:
                state |= {
                    f"head.classifier.{kind}": tensors[f"{classifier}.{kind}"].flatten(1) if kind == "weight" else tensors[f"{classifier}.{kind}"]
                    for kind in ("weight", "bias")
                }
            report = {key: f"encoder.model.{key}" for key in tensors} | (
                {f"{classifier}.{kind}": f"head.classifier.{kind}" for kind in ("weight", "bias")} if classifier else {}
            )
        target: Any = PairCodec(name="pair")
        head: dict[str, Any] = {"name": "embedding"}
        if classifier is not None:
            count = state["head.classifier.weight"].shape[0]
            target, head = ClassCodec(name="label", labels=label_names(config, count, snapshot.name, self.labels)), {"name": "classification"}
        codec = image_codec(prepared, snapshot.name)
        floats = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        return Foreign(Processor({"image": codec}, {target.spec.name: target}), {"encoder": encoder, "head": head}, floats, report)

    def write(self, loaded: "LoadedBundle", folder: "Path") -> None:
        import json

        from safetensors.torch import save_file

        model = loaded.bundle.config["model"]
        encoder, head = model["encoder"], model["head"]
        codec: Any = loaded.processor.inputs[loaded.bundle.input.name]
        classifies = head["name"] == "classification"
        target: Any = loaded.processor.targets[next(iter(loaded.processor.targets))]
        if encoder["name"] == "vit":
            tensors = write_all(vit_rules(encoder, classifies=classifies), loaded.model.state_dict())
            name, arguments = f"vit_base_patch{encoder['patch_size']}_224", vit_arguments(encoder, codec)
        elif encoder["name"] == "timm":
            prepared = default_cfg(encoder["model"])
            state = loaded.model.state_dict()
            tensors = {key.removeprefix("encoder.model."): value.contiguous() for key, value in state.items() if key.startswith("encoder.model.")}
            if classifies:
                tensors |= {f"{prepared['classifier']}.{kind}": state[f"head.classifier.{kind}"] for kind in ("weight", "bias")}
            name, arguments = encoder["model"], {}
        else:
            raise CheckpointError(f"the model has no place in timm's layout: its encoder is {encoder['name']}, where vit or timm is needed")
        config = {
            "architecture": name,
            "num_classes": target.spec.num_classes if classifies else 0,
            "model_args": arguments,
            "pretrained_cfg": {
                "input_size": [codec.channels, *codec.size],
                "mean": list(codec.mean) * (codec.channels if len(codec.mean) == 1 else 1),
                "std": list(codec.std) * (codec.channels if len(codec.std) == 1 else 1),
                "interpolation": str(codec.filter),
                "crop_pct": codec.crop,
                "crop_mode": {Fit.CROP: "center", Fit.STRETCH: "squash", Fit.PAD: "border"}[codec.fit],
            },
        }
        if classifies:
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


def why_no_plain_vit(model: str, tensors: Mapping[str, Tensor]) -> str | None:
    """What keeps a model of timm from being zoo's ViT; None where nothing does."""
    if not model.startswith("vit_") or "patch_embed.proj.weight" not in tensors:
        return f"{model} is no Vision Transformer of timm's"
    known = ("cls_token", "pos_embed", "patch_embed.proj.", "blocks.", "norm.", "fc_norm.", "head.")
    within = ("norm1.", "norm2.", "attn.qkv.", "attn.proj.", "mlp.fc1.", "mlp.fc2.", "ls1.gamma", "ls2.gamma")
    for name in tensors:
        inner = name.split(".", 2)[2] if name.startswith("blocks.") else None
        if not name.startswith(known) or (inner is not None and not inner.startswith(within)):
            return f"{model} has {name}, which zoo's vit has not"
    return None if "pos_embed" in tensors else f"{model} has no trained positions"


def vit_node(tensors: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[Rule]]:
    """zoo's encoder for a plain ViT of timm, and the names of its tensors; sizes are read off the tensors."""
    given = config.get("model_args") or {}
    dim, _, patch, other = tensors["patch_embed.proj.weight"].shape
    depth = 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("blocks."))
    heads = given.get("num_heads", HEADS.get(dim))
    if not isinstance(heads, int) or patch != other:
        raise CheckpointError(
            f"{name}: width {dim}, patches of {patch} x {other}: neither config.json (model_args.num_heads) nor timm's own sizes tell the heads"
        )
    if given.get("reg_tokens") or given.get("no_embed_class") or given.get("pre_norm") or given.get("qk_norm") or given.get("act_layer"):
        raise CheckpointError(f"{name}: config.json: model_args {given}: a variant of ViT that zoo does not have")
    pooled = "fc_norm.weight" in tensors
    mean = given.get("global_pool", "avg" if pooled else "token") == "avg"
    pool = ("patches" if mean else "cls") if "cls_token" in tensors else "mean"
    scale = tensors.get("blocks.0.ls1.gamma")
    node = {
        "name": "vit",
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "patch_size": patch,
        "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        "pool": pool,
        "final_norm": "pooled" if pooled else "tokens",
        "qkv_bias": "with" if "blocks.0.attn.qkv.bias" in tensors else "without",
        "layer_scale": 0.0 if scale is None else float(given.get("init_values") or 1e-5),
    }
    return node, vit_rules(node, classifies="head.weight" in tensors)


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
    return {
        "img_size": list(codec.size),
        "patch_size": encoder["patch_size"],
        "in_chans": codec.channels,
        "embed_dim": encoder["dim"],
        "depth": encoder["depth"],
        "num_heads": encoder["heads"],
        "mlp_ratio": encoder["mlp_ratio"],
        "qkv_bias": encoder["qkv_bias"] == "with",
        "global_pool": "token" if encoder["pool"] == "cls" else "avg",
        "class_token": encoder["pool"] != "mean",
        "fc_norm": encoder["final_norm"] == "pooled",
        "init_values": encoder["layer_scale"] or None,
    }


def image_codec(prepared: Mapping[str, Any], name: str) -> ImageCodec:
    """As timm's own evaluation prepares an image.

    Raises:
        CheckpointError: for a step that zoo does not have.
    """
    channels, height, width = prepared.get("input_size", (3, 224, 224))
    fit = {"center": Fit.CROP, "squash": Fit.STRETCH, "border": Fit.PAD}.get(str(prepared.get("crop_mode") or "center"))
    kind = str(prepared.get("interpolation") or "bicubic")
    if fit is None or kind not in list(Filter):
        raise CheckpointError(f"{name}: crop_mode={prepared.get('crop_mode')!r}, interpolation={kind!r}: how its images are prepared is not known here")
    mean, std = (tuple(map(float, prepared.get(key) or (0.5,))) for key in ("mean", "std"))
    crop = float(prepared.get("crop_pct") or 0.875) if fit is Fit.CROP else 1.0
    return ImageCodec(name="image", channels=channels, size=(height, width), mean=mean, std=std, fit=fit, filter=Filter(kind), crop=crop)


def default_cfg(model: str) -> dict[str, Any]:
    """What timm knows about an architecture; nothing of one that it does not know."""
    import timm

    found = timm.get_pretrained_cfg(model, allow_unregistered=True)
    return dict(found.to_dict()) if found is not None else {}


def _classifier(prepared: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    name = prepared.get("classifier")
    return name if isinstance(name, str) and f"{name}.weight" in tensors and f"{name}.bias" in tensors else None


def _different(labels: list[str], others: list[str]) -> list[str]:
    """Labels, with a number of their class where several are called the same."""
    return [label if labels.count(label) == 1 else f"{label} ({other})" for label, other in zip(labels, others, strict=True)]
