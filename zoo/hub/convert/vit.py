"""Vision Transformers (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929) as transformers writes them: ViTModel, ViTForImageClassification.

https://huggingface.co/docs/transformers/model_doc/vit; the files keep the names of its first version.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.data.codecs.image import Filter, Fit, ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.pair import PairCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign, no_place, other_options
from zoo.hub.convert.names import One, Rule, blocks, layer, patches, read_all, squeezed, stacked, write_all
from zoo.hub.convert.snapshot import Snapshot, labels_of, transformer_config, wanted, write_json
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu"}
FILTERS = {2: Filter.BILINEAR, 3: Filter.BICUBIC}
"""PIL's numbers of its filters."""


@CONVERTERS.register("vit")
class VitConverter:
    """Vision Transformers in the layout of transformers: encoders and classifiers of images."""

    model_types: ClassVar[tuple[str, ...]] = ("vit",)

    def __init__(self) -> None:
        pass

    def read(self, snapshot: Snapshot) -> Foreign:
        config, name = snapshot.config, snapshot.name
        encoder, height, width = encoder_node(config, name)
        tensors = {key.removeprefix("vit."): value for key, value in snapshot.tensors.items()}
        classifies = "classifier.weight" in tensors
        if "pooler.dense.weight" in tensors:  # an embedding does not pass through it, and it is kept all the same
            refuse_other_poolers(config, name)
            encoder["pooler"] = "first"
        target: Any = PairCodec(name="pair")
        head: dict[str, Any] = {"name": "embedding", "pooling": "cls"}
        if classifies:
            target = ClassCodec(name="label", labels=labels_of(config, tensors["classifier.weight"].shape[0], name))
            head = {"name": "classification"}
        state, report = read_all(
            rules(encoder, classifies=classifies),
            tensors,
            unused={"embeddings.mask_token": "of its pretraining"},
            where=name,
        )
        codec = image_codec(snapshot, config["num_channels"], (height, width))
        return Foreign(Processor({"image": codec}, {target.spec.name: target}), {"encoder": encoder, "head": head}, _floats(state), report)

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        from safetensors.torch import save_file

        model = loaded.bundle.config["model"]
        encoder, head = model["encoder"], model["head"]
        classifies = head["name"] == "classification"
        refuse_other_architectures(encoder, head, model["decoder"])
        codec: Any = loaded.processor.inputs[loaded.bundle.input.name]
        preprocessor = foreign_processor(codec)
        tensors = write_all(rules(encoder, classifies=classifies), loaded.model.state_dict())
        height, width = codec.size
        config = {
            "architectures": ["ViTForImageClassification" if classifies else "ViTModel"],
            "model_type": "vit",
            "image_size": height if height == width else [height, width],
            "patch_size": encoder["patch_size"],
            "num_channels": codec.channels,
            "qkv_bias": encoder["qkv_bias"] == "with",
        } | transformer_config(encoder)
        if classifies:
            tensors = {key if key.startswith("classifier.") else f"vit.{key}": value for key, value in tensors.items()}
            target: Any = loaded.processor.targets[next(iter(loaded.processor.targets))]
            config |= {
                "id2label": {str(place): label for place, label in enumerate(target.spec.labels)},
                "label2id": {label: place for place, label in enumerate(target.spec.labels)},
            }
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "config.json", config)
        write_json(folder / "preprocessor_config.json", preprocessor)


def encoder_node(config: dict[str, Any], name: str) -> tuple[dict[str, Any], int, int]:
    """zoo's encoder for a ViT, and height and width of its images.

    Raises:
        CheckpointError: for variants whose numbers would be others.
    """
    dim, depth, heads, hidden, patch, _ = wanted(
        {"patch_size": 16, "num_channels": 3} | config,
        name,
        hidden_size=int,
        num_hidden_layers=int,
        num_attention_heads=int,
        intermediate_size=int,
        patch_size=int,
        num_channels=int,
    )
    size = config.get("image_size", 224)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    act = config.get("hidden_act", "gelu")
    if act not in ACTIVATIONS or not isinstance(height, int) or not isinstance(width, int):
        raise CheckpointError(f"{name}: config.json: hidden_act={act!r}, image_size={size!r}: a variant of ViT that zoo does not have")
    node = {
        "name": "vit",
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "patch_size": patch,
        "mlp_ratio": hidden / dim,
        "activation": ACTIVATIONS[act],
        "dropout": float(config.get("hidden_dropout_prob", 0.0)),
        "attention_dropout": float(config.get("attention_probs_dropout_prob", 0.0)),
        "qkv_bias": "with" if config.get("qkv_bias", True) else "without",
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "pooler": "none",
    }
    return node, height, width


def refuse_other_poolers(config: dict[str, Any], name: str) -> None:
    """Raises:
    CheckpointError: for a pooler that has something else than a tanh behind its layer; another width is told with the tensors' shapes.
    """
    act = config.get("pooler_act", "tanh")
    if act != "tanh":
        raise CheckpointError(
            f"{name}: config.json: pooler_act={act!r}, where 'tanh' is needed: zoo has no other pooler, and what it gives would be other numbers\n"
            "  way out: a checkpoint without a pooler: ViTModel.from_pretrained(..., add_pooling_layer=False).save_pretrained(...)"
        )


def rules(encoder: dict[str, Any], *, classifies: bool) -> list[Rule]:
    """Names of zoo's tensors and ViT's."""
    ours, theirs = "encoder.blocks.{n}", "encoder.layer.{n}"
    kinds = ("weight", "bias") if encoder["qkv_bias"] == "with" else ("weight",)
    found: list[Rule] = [
        One("encoder.cls", "embeddings.cls_token"),
        squeezed("encoder.positions.weight", "embeddings.position_embeddings"),
        *patches("encoder.patches.proj", "embeddings.patch_embeddings.projection", encoder["patch_size"]),
        *blocks(
            encoder["depth"],
            [
                *layer(f"{ours}.norm1", f"{theirs}.layernorm_before"),
                *stacked(f"{ours}.attention.qkv", [f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value")], encoder["heads"], *kinds),
                *layer(f"{ours}.attention.proj", f"{theirs}.attention.output.dense"),
                *layer(f"{ours}.norm2", f"{theirs}.layernorm_after"),
                *layer(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
                *layer(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
            ],
        ),
        *layer("encoder.norm", "layernorm"),
        *(layer("encoder.pooler", "pooler.dense") if encoder["pooler"] == "first" else []),
    ]
    return [*found, *layer("head.classifier", "classifier")] if classifies else found


def image_codec(snapshot: Snapshot, channels: int, size: tuple[int, int]) -> ImageCodec:
    """Of preprocessor_config.json: ViT's own stretches an image to its frame.

    Raises:
        CheckpointError: for a step that zoo does not have.
    """
    told = snapshot.optional("preprocessor_config.json")
    mean, std = (tuple(map(float, told.get(key, [0.5]))) for key in ("image_mean", "image_std"))
    if told.get("do_normalize") is False:
        mean, std = (0.0,), (1.0,)
    if abs(float(told.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3 or told.get("do_center_crop"):
        raise CheckpointError(f"{snapshot.name}: preprocessor_config.json asks for a rescaling or cropping that ViT's own does not do")
    resample = told.get("resample", 2)
    if resample not in FILTERS:
        raise CheckpointError(f"{snapshot.name}: preprocessor_config.json: resample={resample!r}: bilinear (2) and bicubic (3) are known")
    return ImageCodec(name="image", channels=channels, size=size, mean=mean, std=std, fit=Fit.STRETCH, filter=FILTERS[resample])


def foreign_processor(codec: ImageCodec) -> dict[str, Any]:
    """preprocessor_config.json."""
    if codec.fit is not Fit.STRETCH or codec.crop != 1:
        raise CheckpointError(
            f"the images have fit={codec.fit}, crop={codec.crop:g}; ViT's preprocessor stretches every image to its frame and cuts nothing off, so that its "
            "answers would be others\n  way out 1: a model trained with the data's fit=stretch, crop=1\n"
            "  way out 2: --as timm, whose preprocessor crops\n  way out 3: zoo export without --as"
        )
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(codec.mean) * (codec.channels if len(codec.mean) == 1 else 1),
        "image_std": list(codec.std) * (codec.channels if len(codec.std) == 1 else 1),
        "resample": next(number for number, kind in FILTERS.items() if kind is codec.filter),
        "rescale_factor": 1 / 255,
        "size": {"height": codec.size[0], "width": codec.size[1]},
    }


def refuse_other_architectures(encoder: dict[str, Any], head: dict[str, Any], decoder: dict[str, Any]) -> None:
    """Raises:
    CheckpointError: for a model that is no such ViT; says every difference.
    """
    if encoder["name"] != "vit" or decoder["name"] != "none" or head["name"] not in ("classification", "embedding"):
        raise no_place("ViT", [f"it is {encoder['name']} -> {decoder['name']} -> {head['name']}, where vit -> none -> classification or embedding is needed"])
    needed = {"pool": "cls", "placement": "pre", "final_norm": "tokens", "layer_scale": 0.0}
    wrong, overrides = other_options(encoder, needed)
    if encoder["activation"] not in ACTIVATIONS:
        wrong.append(f"model.encoder.activation is {encoder['activation']}, where one of {', '.join(ACTIVATIONS)} is needed")
        overrides.append("model.encoder.activation=gelu")
    if head["name"] == "classification" and (head["pooling"] not in ("auto", "cls") or encoder["pooler"] != "none"):
        wrong.append(
            f"model.head.pooling is {head['pooling']} and model.encoder.pooler is {encoder['pooler']}, where auto and none are needed: "
            "ViTForImageClassification classifies the first token as it comes out of the last norm"
        )
        overrides += ["model.encoder.pooler=none"] if encoder["pooler"] != "none" else []
        overrides += ["model.head.pooling=auto"] if head["pooling"] != "auto" else []
    if head["name"] == "embedding" and head["pooling"] != "cls" and (head["pooling"] != "auto" or encoder["pooler"] != "none"):
        wrong.append(f"model.head.pooling is {head['pooling']}, where cls, the token whose vector ViTModel gives, is needed")
        overrides.append("model.head.pooling=cls")
    if wrong:
        raise no_place("ViT", wrong, overrides)


def _floats(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {key: value.to(torch.float32) for key, value in state.items()}
