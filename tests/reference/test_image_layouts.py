"""Layouts of images' models: a network of another arithmetic is never read as zoo's own, and nothing leaves zoo in part.

The small architectures are registered here, with timm's own parts; sizes are odd on purpose.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform
from timm.models import VisionTransformer, register_model
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from tests.reference.test_converters import bundled, close, randomise
from zoo.build import build_model
from zoo.cli.main import main
from zoo.config import RunConfig
from zoo.data.codecs.image import Fit, ImageCodec
from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.pair import PairCodec
from zoo.data.processor import Processor
from zoo.errors import CheckpointError
from zoo.hub.bundle import LoadedBundle, load_bundle, write_bundle
from zoo.hub.convert.efficientnet import EfficientNetConverter
from zoo.hub.convert.timm import As, TimmConverter, image_codec
from zoo.hub.convert.timm_network import built, why_no_plain_vit
from zoo.hub.convert.torchvision import TorchvisionConverter
from zoo.hub.convert.vit import VitConverter
from zoo.structs import Values

SIZES: dict[str, Any] = {"img_size": 12, "patch_size": 4, "embed_dim": 20, "depth": 2, "num_heads": 5}
OWN = {
    "vit_base_patch16_224",
    "vit_tiny_patch16_224",
    "vit_large_patch32_384",
    "vit_small_patch14_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_so400m_patch14_siglip_gap_224",
    "vit_small_patch16_36x1_224",
}
OTHER = {
    "vit_base_patch16_rpn_224": "blocks of its own kind",
    "vit_base_patch32_siglip_gap_256": "GELUTanh|GELU\\(approximate='tanh'\\)",
    "vit_base_patch16_siglip_224": "the pooling 'map'",
    "vit_base_patch16_clip_224": "patches of its own kind",
    "vit_small_patch14_reg4_dinov2": "registers",
    "vit_small_patch16_18x2_224": "blocks of its own kind",
    "deit3_small_patch16_224": "a token without a position",
    "deit_tiny_distilled_patch16_224": "VisionTransformerDistilled",
    "vit_relpos_small_patch16_224": "VisionTransformerRelPos",
    "resnet18": "ResNet",
}


@register_model
def zoo_rpn(pretrained: bool = False, **options: Any) -> nn.Module:
    return VisionTransformer(**SIZES | {"block_fn": ResPostBlock, "class_token": False, "global_pool": "avg"} | _without_timms_own(options))


@register_model
def zoo_tanh(pretrained: bool = False, **options: Any) -> nn.Module:
    return VisionTransformer(**SIZES | {"act_layer": partial(nn.GELU, approximate="tanh")} | _without_timms_own(options))


def _without_timms_own(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not name.startswith(("pretrained", "cache_dir"))}


def foreign(folder: Path, network: nn.Module, config: dict[str, Any], size: int = 12) -> Path:
    """As timm publishes a network."""
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, size, size]}} | config))
    return folder


def loaded(folder: Path, encoder: dict[str, Any], head: dict[str, Any], **codec: Any) -> LoadedBundle:
    """A bundle of an untrained model, with 12 x 12 pixels where nothing else is said."""
    images = ImageCodec(**{"name": "image", "channels": 3, "size": (12, 12), "fit": Fit.STRETCH} | codec)
    target: Any = PairCodec(name="pair") if head["name"] == "embedding" else ClassCodec(name="label", labels=("a", "b", "c"))
    processor = Processor({"image": images}, {target.spec.name: target})
    model = {"encoder": encoder, "decoder": {"name": "none"}, "head": head}
    config = RunConfig.from_dict(
        {
            "name": "x",
            "data": {"name": "digits", "augment": {}},
            "model": model,
            "optimizer": {"name": "adamw"},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 1},
        }
    )
    return load_bundle(write_bundle(folder / "bundle", config=config, processor=processor, model=build_model(config, processor.spec), metrics={}))


VIT = {"name": "vit", "dim": 20, "depth": 1, "heads": 5, "patch_size": 4, "norm_eps": 1e-6}
CLASSES, VECTORS = {"name": "classification"}, {"name": "embedding"}


# --- which networks are zoo's own vit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", sorted(OWN))
def test_plain_networks_are_known_by_their_arithmetic(model: str) -> None:
    network: Any = built(model, {"depth": 2} if "36x1" not in model and "g" not in model.split("_")[1] and "gap" not in model else {}, classes=2, where="x")
    swiglu = type(network.blocks[0].mlp).__name__ != "Mlp"
    assert (why_no_plain_vit(network) is None) is not swiglu


@pytest.mark.parametrize("model", sorted(OTHER))
def test_networks_of_other_arithmetic_are_told(model: str) -> None:
    import re

    why = why_no_plain_vit(built(model, {}, classes=2, where="x"))
    assert why is not None
    assert re.search(OTHER[model], why), why


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"global_pool": "max"}, "the pooling 'max'"),
        ({"reg_tokens": 2}, "registers"),
        ({"no_embed_class": True}, "a token without a position"),
        ({"qk_norm": True}, "norms or gates"),
        ({"act_layer": "gelu_tanh"}, "the activation"),
        ({"norm_layer": "rmsnorm"}, "norms that are not layer norms"),
        ({"dynamic_img_size": True}, "images of any size"),
        ({"pre_norm": True}, "patches of its own kind"),
        ({"proj_bias": False}, "projections without a bias"),
        ({"final_norm": False}, "not one last norm"),
        ({"pos_embed": "none"}, "no trained positions"),
        ({"global_pool": "avg", "pool_include_prefix": True}, "pooling over its token as well"),
    ],
)
def test_arguments_of_other_arithmetic_are_told(arguments: dict[str, Any], why: str) -> None:
    told = why_no_plain_vit(built("vit_tiny_patch16_224", {"depth": 1} | arguments, classes=2, where="x"))
    assert told is not None
    assert told.startswith(why), told


@pytest.mark.parametrize("model", ["zoo_rpn", "zoo_tanh"])
@torch.no_grad()
def test_networks_of_other_arithmetic_stay_timms(tmp_path: Path, model: str) -> None:
    """Their tensors have a plain ViT's names and shapes."""
    reference = randomise(timm.create_model(model, num_classes=3))
    folder = foreign(tmp_path / "theirs", reference, {"architecture": model, "num_classes": 3})
    found = bundled(folder, "timm", tmp_path)
    assert found.bundle.config["model"]["encoder"]["name"] == "timm"
    ours: Any = found.model
    image = torch.randn(2, 3, 12, 12)
    close(ours.head(ours.encoder(image))["logits"], reference(image))
    from zoo.hub.convert.snapshot import Snapshot

    with pytest.raises(CheckpointError, match=r"which zoo's vit has not\n  way out: .*encoder=timm"):
        TimmConverter(encoder=As.VIT).read(Snapshot(folder, "x"))


@pytest.mark.parametrize("where", ["model_args", "beside them"])
def test_arguments_that_no_encoder_has_are_refused(tmp_path: Path, where: str) -> None:
    """A pooling by the largest: neither zoo's vit, nor what timm builds by the name alone."""
    sizes = {"embed_dim": 20, "depth": 1, "num_heads": 5, "img_size": 12, "patch_size": 4, "fc_norm": False}
    config = {"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": sizes | ({"global_pool": "max"} if where == "model_args" else {})}
    folder = foreign(tmp_path / "theirs", VisionTransformer(**sizes, num_classes=3), config | ({} if where == "model_args" else {"global_pool": "max"}))
    with pytest.raises(CheckpointError, match=r"max.*numbers would be others|timm cannot build"):
        bundled(folder, "timm", tmp_path)


@torch.no_grad()
def test_the_pooling_beside_model_args_counts(tmp_path: Path) -> None:
    sizes = {"embed_dim": 20, "depth": 1, "num_heads": 5, "img_size": 12, "patch_size": 4, "fc_norm": False}
    reference = randomise(VisionTransformer(**sizes, num_classes=3, global_pool="avg"))
    folder = foreign(tmp_path / "theirs", reference, {"architecture": "vit_base_patch16_224", "model_args": sizes, "global_pool": "avg"})
    ours: Any = bundled(folder, "timm", tmp_path).model
    image = torch.randn(2, 3, 12, 12)
    close(ours.head(ours.encoder(image))["logits"], reference(image))


@pytest.mark.parametrize("arguments", [{"checkpoint_path": "/etc/passwd"}, {"pretrained": True}, {"nonsense": 3}])
def test_arguments_that_are_none_of_an_architecture_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"no part of an architecture|timm cannot build"):
        built("vit_tiny_patch16_224", arguments, classes=2, where="x")


# --- images -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(250, 180), (64, 100), (96, 96)])
@pytest.mark.parametrize(("mode", "crop"), [("center", 0.875), ("center", 1.0), ("squash", 1.0), ("squash", 0.9)])
def test_images_are_prepared_as_by_timm(mode: str, crop: float, size: tuple[int, int]) -> None:
    """Within PIL's roundings to whole pixels; torch's are others."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    figures: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bicubic", "crop_pct": crop, "crop_mode": mode}
    reference = create_transform(input_size=(3, 48, 48), **figures)(image)
    codec = image_codec({"input_size": (3, 48, 48)} | figures, "x")
    ours = codec.finish(Values(codec.encode(image)["values"][None])).values[0]  # type: ignore[index]
    assert float((ours - reference).abs().max()) < 2.5 / 255 / 0.22


def test_borders_are_refused_both_ways(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"crop_mode='border'.*\n  way out"):
        image_codec({"crop_mode": "border"}, "x")
    with pytest.raises(CheckpointError, match=r"fit=pad.*\n  way out"):
        TimmConverter().write(loaded(tmp_path, VIT, CLASSES, fit=Fit.PAD), tmp_path / "theirs")


def test_vits_preprocessor_only_stretches(tmp_path: Path) -> None:
    for number, codec in enumerate([{"fit": Fit.CROP}, {"fit": Fit.CROP, "crop": 0.9}, {"fit": Fit.PAD}, {"crop": 0.9}]):
        found = loaded(tmp_path / str(number), VIT, CLASSES, **codec)
        with pytest.raises(CheckpointError, match=r"stretches every image to its frame(?s:.*)way out 2: --as timm"):
            VitConverter().write(found, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


# --- nothing leaves in part -------------------------------------------------------------------------------------------------------


def test_parts_without_a_place_are_refused(tmp_path: Path) -> None:
    resnet, torchs = {"name": "timm", "model": "resnet18"}, {"name": "torchvision", "model": "resnet18"}
    cases: list[tuple[Any, dict[str, Any], dict[str, Any], str]] = [
        (TimmConverter(), resnet, VECTORS | {"dim": 7}, "model.head.dim is 7"),
        (TimmConverter(), VIT, VECTORS | {"dim": 7}, "model.head.dim is 7"),
        (TimmConverter(), VIT, VECTORS | {"pooling": "mean"}, "model.head.pooling is mean"),
        (TimmConverter(), VIT, CLASSES | {"pooling": "attention"}, "model.head.pooling is attention"),
        (VitConverter(), VIT, VECTORS | {"pooling": "mean"}, "model.head.pooling is mean"),
        (VitConverter(), VIT, VECTORS | {"dim": 7}, "head.projection"),
        (TorchvisionConverter(model=""), torchs, VECTORS, "it is torchvision -> none -> embedding"),
        (EfficientNetConverter(model=""), resnet, CLASSES, "it is timm -> none -> classification"),
    ]
    for number, (converter, encoder, head, message) in enumerate(cases):
        found = loaded(tmp_path / str(number), encoder, head, size=(32, 32))
        with pytest.raises(CheckpointError, match=message):
            converter.write(found, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("encoder", "head", "channels"),
    [
        ({"name": "timm", "model": "resnet18"}, CLASSES, 1),
        ({"name": "timm", "model": "resnetv2_18"}, CLASSES, 3),
        ({"name": "timm", "model": "test_vit"}, VECTORS, 3),
        (VIT | {"mlp_ratio": 1.65}, CLASSES, 1),
        (VIT | {"pool": "mean", "mlp_ratio": 2.06}, VECTORS | {"pooling": "mean"}, 3),
    ],
    ids=["grey", "a classifier of one pixel", "no classes", "a cut width", "mean of all"],
)
@torch.no_grad()
def test_what_is_written_loads_in_timm(tmp_path: Path, encoder: dict[str, Any], head: dict[str, Any], channels: int) -> None:
    """By config.json alone, with no tensor missing and none too many; and back again."""
    found = loaded(tmp_path, encoder, head, size=(32, 32), channels=channels)
    TimmConverter().write(found, tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    theirs = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"]).eval()
    theirs.load_state_dict(load_file(tmp_path / "theirs" / "model.safetensors"), strict=True)
    again = bundled(tmp_path / "theirs", "timm", tmp_path)
    image = torch.randn(2, channels, 32, 32)
    for model in (found.model, again.model):
        answer = model.head(model.encoder(image))  # type: ignore[operator]
        reference = theirs(image)
        close(answer["logits"], reference) if "logits" in answer else close(answer["vectors"], nn.functional.normalize(reference, dim=-1))


# --- the command ------------------------------------------------------------------------------------------------------------------


def test_bundles_and_names_are_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = loaded(tmp_path, VIT, CLASSES).bundle.path
    assert main(["export", str(bundle), "--to", str(tmp_path / "copy"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["step"] is None
    assert told["bundle"] == str(tmp_path / "copy")
    files = sorted(path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file())
    assert sorted(path.relative_to(tmp_path / "copy") for path in (tmp_path / "copy").rglob("*") if path.is_file()) == files
    assert all((bundle / file).read_bytes() == (tmp_path / "copy" / file).read_bytes() for file in files)
    assert main(["export", "digits_cnn", "--to", str(tmp_path / "named")]) == 0
    load_bundle(tmp_path / "named")
    capsys.readouterr()
    (bundle / "model.safetensors").write_bytes(b"damaged")
    for words, message in (
        (["export", str(bundle), "--to", str(tmp_path / "x")], "model.safetensors"),
        (["export", "digits_cn", "--to", str(tmp_path / "x")], "digits_cnn"),
        (["export", "digits_cnn", "--to", str(tmp_path / "x"), "--checkpoint", "3"], "has no checkpoints"),
        (["export", "digits_cnn", "--to", str(tmp_path / "x"), "--checkpoint", "3", "--as", "vit"], "has no checkpoints"),
        (["export", str(tmp_path / "copy"), "--to", str(tmp_path / "copy" / "within")], "lies in the bundle"),
    ):
        assert main(words) == 2, words
        assert message in capsys.readouterr().err, words
    assert not (tmp_path / "x").exists()


def test_tables_go_with_the_weights_that_they_are_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zoo.training.job import run_job

    tree = {
        "name": "used",
        "data": {"name": "digits", "batch_size": 64, "augment": {}},
        "model": {"encoder": {"name": "mlp", "dims": [8]}, "decoder": {"name": "none"}, "head": CLASSES},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": {"name": "constant"},
        "trainer": {"max_epochs": None, "max_steps": 8, "eval_every": 4, "checkpoint_every": 4, "keep_last": 3, "ema": 0.9, "device": "cpu"},
    }
    folder = tmp_path / "used"
    folder.mkdir()
    config = RunConfig.from_dict(tree)
    config.save(folder / "config.yaml")
    run_job(config, folder)
    own = json.loads((folder / "bundle" / "metrics.json").read_text())["tables"]
    assert own
    for which, tables in (("best", own), ("4", {})):
        assert main(["export", str(folder), "--to", str(tmp_path / which), "--checkpoint", which]) == 0
        assert json.loads((tmp_path / which / "metrics.json").read_text())["tables"] == tables
    capsys.readouterr()
