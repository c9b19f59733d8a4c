"""Foreign checkpoints give the numbers of the library that wrote them, and go back to it with no tensor missing and none too many.

The models have random weights, which transformers and timm saved in their own layouts; sizes are odd on purpose.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.hub.bundle import LoadedBundle, load_bundle
from zoo.hub.cache import Cache, sha256_of
from zoo.hub.convert.bert import BertConverter
from zoo.hub.convert.timm import TimmConverter
from zoo.hub.convert.vit import VitConverter
from zoo.hub.pull import make

BOUND = 1e-5
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(100)), *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]


def bert(dim: int, depth: int, heads: int, hidden: int, positions: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": hidden}
    return sizes | {"max_position_embeddings": positions} | more


def vit(dim: int, depth: int, heads: int, hidden: int, image: int, patch: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": hidden}
    return sizes | {"image_size": image, "patch_size": patch} | more


def of_timm(dim: int, depth: int, heads: int, image: Any, patch: int, classes: int, **more: Any) -> dict[str, Any]:
    return {"embed_dim": dim, "depth": depth, "num_heads": heads, "img_size": image, "patch_size": patch, "num_classes": classes} | more


BERTS = {
    "plain": bert(24, 2, 3, 50, 40),
    "one segment, relu": bert(20, 1, 5, 33, 17, type_vocab_size=1, hidden_act="relu"),
    "deep, eps": bert(12, 5, 2, 48, 64, layer_norm_eps=1e-5),
    "padded table": bert(16, 2, 4, 7, 30, vocab_size=128, hidden_act="silu"),
}
VITS = {
    "plain": vit(24, 2, 3, 50, 12, 4),
    "no bias": vit(20, 1, 5, 33, 15, 3, qkv_bias=False),
    "grey": vit(12, 3, 2, 48, 8, 2, num_channels=1, layer_norm_eps=1e-6),
    "relu": vit(16, 2, 4, 7, 14, 7, hidden_act="relu"),
}
TIMMS = {
    "token": of_timm(24, 2, 3, 12, 4, 5),
    "mean, no token": of_timm(24, 2, 2, (8, 12), 2, 5, global_pool="avg", class_token=False, mlp_ratio=3.0),
    "mean beside a token": of_timm(20, 1, 5, 12, 4, 3, global_pool="avg", qkv_bias=False),
    "layer scale, no classes": of_timm(20, 3, 5, 12, 3, 0, init_values=0.1, in_chans=1),
}


def bundled(folder: Path, read_by: str, tmp_path: Path, **options: Any) -> LoadedBundle:
    """A foreign folder through the cache, as ``zoo pull`` does it."""
    cache = Cache(tmp_path / "cache")
    cache.blobs.mkdir(parents=True)
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            fresh = cache.blobs / "fresh"
            fresh.write_bytes(path.read_bytes())
            files[str(path.relative_to(folder))] = cache.add(fresh, sha256_of(path))
    return load_bundle(make("foreign", cache.model("foreign", "0" * 12), files, source="a test", read_by=read_by, options=options))


def randomise(model: nn.Module) -> nn.Module:
    """Norms and biases too: their zeros and ones would hide what is swapped."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def close(found: torch.Tensor, reference: torch.Tensor) -> None:
    assert found.shape == reference.shape
    assert float((found - reference).abs().max()) <= BOUND


@pytest.mark.parametrize("classifies", [False, True], ids=["encoder", "classifier"])
@pytest.mark.parametrize("sizes", BERTS.values(), ids=BERTS)
@torch.no_grad()
def test_bert(tmp_path: Path, sizes: dict[str, Any], classifies: bool) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    kind = BertForSequenceClassification if classifies else BertModel
    config = BertConfig(**{"vocab_size": len(WORDS), "num_labels": 3} | sizes)
    reference: Any = randomise(kind(config))
    reference.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    loaded = bundled(tmp_path / "theirs", "bert", tmp_path)
    ids = torch.randint(5, len(WORDS), (4, 15))
    mask = torch.ones(4, 15, dtype=torch.bool)
    mask[1, 6:] = mask[2, 1:] = False
    ids[~mask] = 0
    theirs = reference(ids, attention_mask=mask.long(), output_hidden_states=True)
    model: Any = loaded.model
    ours = model.encoder(ids, mask)
    close(ours.tokens[mask], theirs.hidden_states[-1][mask])
    if classifies:
        close(model.head(ours)["logits"], theirs.logits)
    else:
        close(ours.pooled, theirs.pooler_output)
        real = mask[..., None]
        mean = (theirs.last_hidden_state * real).sum(1) / real.sum(1)
        close(model.head(ours)["vectors"], F.normalize(mean, dim=-1))
    BertConverter().write(loaded, tmp_path / "ours")
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    close(again.eval()(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[-1][mask], theirs.hidden_states[-1][mask])


@pytest.mark.parametrize("classifies", [False, True], ids=["encoder", "classifier"])
@pytest.mark.parametrize("sizes", VITS.values(), ids=VITS)
@torch.no_grad()
def test_vit(tmp_path: Path, sizes: dict[str, Any], classifies: bool) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    kind = ViTForImageClassification if classifies else ViTModel
    reference: Any = randomise(kind(ViTConfig(**{"num_labels": 3} | sizes)))
    reference.save_pretrained(tmp_path / "theirs")
    loaded = bundled(tmp_path / "theirs", "vit", tmp_path)
    image = torch.randn(3, sizes.get("num_channels", 3), sizes["image_size"], sizes["image_size"])
    theirs = reference(image, output_hidden_states=True)
    model: Any = loaded.model
    ours = model.encoder(image)
    if classifies:
        close(model.head(ours)["logits"], theirs.logits)
    else:
        close(ours.tokens, theirs.last_hidden_state)
        close(ours.pooled, theirs.pooler_output)
    VitConverter().write(loaded, tmp_path / "ours")
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    key = "logits" if classifies else "last_hidden_state"
    close(getattr(again.eval()(image), key), getattr(theirs, key))


@pytest.mark.parametrize("sizes", TIMMS.values(), ids=TIMMS)
@torch.no_grad()
def test_vit_of_timm(tmp_path: Path, sizes: dict[str, Any]) -> None:
    from timm.models import VisionTransformer

    reference = randomise(VisionTransformer(**sizes))
    height, width = sizes["img_size"] if isinstance(sizes["img_size"], tuple) else (sizes["img_size"],) * 2
    channels = sizes.get("in_chans", 3)
    theirs_folder = tmp_path / "theirs"
    theirs_folder.mkdir()
    save_file(reference.state_dict(), theirs_folder / "model.safetensors")
    config = {"architecture": "vit_base_patch16_224", "num_classes": sizes["num_classes"], "model_args": sizes}
    (theirs_folder / "config.json").write_text(
        json.dumps(config | {"pretrained_cfg": {"input_size": [channels, height, width], "mean": [0.5] * channels, "std": [0.5] * channels}})
    )
    loaded = bundled(theirs_folder, "timm", tmp_path)
    assert loaded.bundle.config["model"]["encoder"]["name"] == "vit"
    image = torch.randn(3, channels, height, width)
    model: Any = loaded.model
    ours, theirs = model.encoder(image), reference(image)
    if sizes.get("global_pool") != "avg":
        close(ours.tokens, reference.forward_features(image))  # type: ignore[operator]
    answer = model.head(ours)
    close(answer["logits"] if sizes["num_classes"] else answer["vectors"], theirs if sizes["num_classes"] else F.normalize(theirs, dim=-1))
    TimmConverter().write(loaded, tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    again = VisionTransformer(num_classes=written["num_classes"], **written["model_args"]).eval()
    again.load_state_dict(load_file(tmp_path / "ours" / "model.safetensors"), strict=True)
    close(again(image), theirs)


@pytest.mark.parametrize("model", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
@torch.no_grad()
def test_any_other_model_of_timm(tmp_path: Path, model: str) -> None:
    import timm

    reference = timm.create_model(model, num_classes=4).eval()
    theirs_folder = tmp_path / "theirs"
    theirs_folder.mkdir()
    save_file({name: value.contiguous() for name, value in reference.state_dict().items()}, theirs_folder / "model.safetensors")
    config = {"architecture": model, "num_classes": 4, "label_names": ["a", "b", "c", "d"], "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (theirs_folder / "config.json").write_text(json.dumps(config))
    loaded = bundled(theirs_folder, "timm", tmp_path)
    image = torch.randn(2, 3, 64, 64)
    ours: Any = loaded.model
    close(ours.head(ours.encoder(image))["logits"], reference(image))
    TimmConverter().write(loaded, tmp_path / "ours")
    again = timm.create_model(model, num_classes=4).eval()
    again.load_state_dict(load_file(tmp_path / "ours" / "model.safetensors"), strict=True)
    close(again(image), reference(image))


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5"])
@torch.no_grad()
def test_torchvision(tmp_path: Path, model: str) -> None:
    """Its own files are pickles."""
    from torchvision import models

    from zoo.hub.convert.torchvision import TorchvisionConverter

    reference = models.get_model(model, weights=None).eval()
    theirs_folder = tmp_path / "theirs"
    theirs_folder.mkdir()
    torch.save(reference.state_dict(), theirs_folder / "weights.pth")
    loaded = bundled(theirs_folder, "torchvision", tmp_path, model=model)
    image = torch.randn(2, 3, 64, 64)
    ours: Any = loaded.model
    close(ours.head(ours.encoder(image))["logits"], reference(image))
    assert loaded.bundle.spec.targets[0].labels[0] == "tench"  # type: ignore[attr-defined]
    TorchvisionConverter(model=model).write(loaded, tmp_path / "ours")
    again = models.get_model(model, weights=None).eval()
    again.load_state_dict(load_file(tmp_path / "ours" / "model.safetensors"), strict=True)
    close(again(image), reference(image))


@torch.no_grad()
def test_efficientnets_first_layout(tmp_path: Path) -> None:
    """Names of PyTorch's first implementation, from timm's network by way of the table, and back; a real file of it is in test_real_weights."""
    import timm

    from zoo.hub.convert.efficientnet import EfficientNetConverter, rules

    reference = timm.create_model("tf_efficientnet_lite0").eval()
    state = {f"encoder.model.{name}" if not name.startswith("classifier.") else f"head.{name}": value for name, value in reference.state_dict().items()}
    theirs_folder = tmp_path / "theirs"
    theirs_folder.mkdir()
    torch.save({name: value for rule in rules("tf_efficientnet_lite0") for name, value in rule.write(state).items()}, theirs_folder / "weights.pth")
    loaded = bundled(theirs_folder, "efficientnet", tmp_path, model="tf_efficientnet_lite0")
    image = torch.randn(1, 3, 64, 64)
    ours: Any = loaded.model
    close(ours.head(ours.encoder(image))["logits"], reference(image))
    EfficientNetConverter(model="tf_efficientnet_lite0").write(loaded, tmp_path / "ours")
    assert set(torch.load(tmp_path / "ours" / "pytorch_model.bin", weights_only=True)) == set(torch.load(theirs_folder / "weights.pth", weights_only=True))


def test_texts_are_cut_as_by_transformers(tmp_path: Path) -> None:
    """vocab.txt, the oldest layout: zoo's tokens are those of BertTokenizer."""
    from transformers import BertTokenizer

    words = [*WORDS[:5], "the", "cat", "sat", "##s", "on", "mat", ",", "!", "un", "##know", "##n", "ecole"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    reference = BertTokenizer.from_pretrained(tmp_path)
    ours = WordPieceTokenizer.of_vocabulary({word: place for place, word in enumerate(words)}, lowercase=True)
    for text in ("The cat sat on the mat!", "unknown, cats", "École", "日本 the", "", "a  \t cat\n"):
        assert ours.encode(text) == reference(text)["input_ids"], text


def test_images_are_prepared_as_by_timm(tmp_path: Path) -> None:
    """Resize, cropping and normalisation of an evaluation; PIL's filters round to whole pixels, torch's to other ones."""
    import numpy as np
    from PIL import Image
    from timm.data import create_transform

    from zoo.hub.convert.timm import image_codec

    for number, (size, crop, kind) in enumerate([((250, 180), 0.875, "bicubic"), ((64, 100), 0.9, "bilinear"), ((96, 96), 1.0, "bicubic")]):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        prepared = {"input_size": (3, 48, 48), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": kind, "crop_pct": crop}
        reference = create_transform(input_size=(3, 48, 48), interpolation=kind, crop_pct=crop, mean=prepared["mean"], std=prepared["std"])(image)
        codec = image_codec(prepared, "x")
        from zoo.structs import Values

        ours = codec.finish(Values(codec.encode(image)["values"][None])).values[0]  # type: ignore[index]
        assert float((ours - reference).abs().max()) < 2.5 / 255 / 0.22, (size, crop, kind)
