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

from zoo.config import RunConfig
from zoo.data.packing import pack
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import CheckpointError
from zoo.hub.bundle import LoadedBundle, load_bundle
from zoo.hub.cache import Cache
from zoo.hub.convert.bert import BertConverter
from zoo.hub.convert.timm import TimmConverter
from zoo.hub.convert.vit import VitConverter
from zoo.hub.export import export_foreign
from zoo.hub.made import make
from zoo.hub.source import sha256_of
from zoo.structs import Values
from zoo.training.job import run_job

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


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_two_texts_are_of_two_segments(tmp_path: Path, packed: bool) -> None:
    """What follows the first separator has BERT's second token type, alone, padded and packed."""
    from transformers import BertConfig, BertModel

    reference: Any = randomise(BertModel(BertConfig(**{"vocab_size": len(WORDS), "type_vocab_size": 2} | next(iter(BERTS.values())))))
    reference.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    encoder: Any = bundled(tmp_path / "theirs", "bert", tmp_path).model.encoder
    separator = WORDS.index("[SEP]")
    encoder.segments.separator = separator  # as data of two texts sets it
    ids = torch.randint(5, len(WORDS), (3, 13))
    lengths = torch.tensor([13, 9, 11])
    mask = torch.arange(13) < lengths[:, None]
    ids[~mask] = 0
    ids[:, 4] = separator
    ids[torch.arange(3), lengths - 1] = separator
    types = ((torch.arange(13) > 4) & mask).long()
    theirs = reference(ids, attention_mask=mask.long(), token_type_ids=types).last_hidden_state
    values = pack(Values(ids, mask)) if packed else Values(ids, mask)
    close(encoder(values.values, values.mask, values.packing).tokens[mask], theirs[mask])
    alone = reference(ids, attention_mask=mask.long()).last_hidden_state
    assert float((alone - theirs)[mask].abs().max()) > 0.01  # they matter


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


def small_bert(kind: str, **more: Any) -> Any:
    import transformers

    config = transformers.BertConfig(**{"vocab_size": len(WORDS), "num_labels": 3} | bert(24, 2, 3, 50, 40) | more)
    return randomise(getattr(transformers, kind)(config))


def saved_bert(model: Any, folder: Path, words: list[str] = WORDS, **files: Any) -> Path:
    """As transformers writes it, with vocab.txt and other JSON files."""
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    for name, tree in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(tree))
    return folder


def sentence_files(pooling: dict[str, Any], *more: str, **sizes: int) -> dict[str, Any]:
    """Of sentence-transformers, with more modules than its two."""
    kinds = ("Transformer", "Pooling", *more)
    rows = [
        {"idx": place, "name": str(place), "path": f"{place}_{kind}" if place else "", "type": f"sentence_transformers.models.{kind}"}
        for place, kind in enumerate(kinds)
    ]
    return {"modules.json": rows, "1_Pooling/config.json": {"word_embedding_dimension": 24} | pooling, "sentence_bert_config.json": sizes}


def test_a_tagger_of_tokens_is_no_classifier_of_texts(tmp_path: Path) -> None:
    """It has a classifier, too, and no pooler; also where its config does not say what it is."""
    folder = saved_bert(small_bert("BertForTokenClassification"), tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="architectures: BertForTokenClassification, whose outputs zoo does not have"):
        bundled(folder, "bert", tmp_path / "told")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": None}))
    with pytest.raises(CheckpointError, match=r"classifier\.weight and no pooler\.dense\.weight: it classifies each token"):
        bundled(folder, "bert", tmp_path / "untold")
    folder = saved_bert(small_bert("BertModel"), tmp_path / "no classifier")
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(CheckpointError, match=r"no classifier\.weight"):
        bundled(folder, "bert", tmp_path / "lacks")


@pytest.mark.parametrize("kind", ["BertForPreTraining", "BertForMaskedLM"])
@torch.no_grad()
def test_what_bert_was_pretrained_as_keeps_its_encoder(tmp_path: Path, kind: str) -> None:
    reference = small_bert(kind)
    loaded = bundled(saved_bert(reference, tmp_path / "theirs"), "bert", tmp_path)
    ids = torch.randint(5, len(WORDS), (2, 9))
    model: Any = loaded.model
    close(model.encoder(ids, torch.ones(2, 9, dtype=torch.bool)).tokens, reference.bert(ids).last_hidden_state)


@pytest.mark.parametrize(
    ("pooling", "more", "refusal"),
    [
        ({"pooling_mode_cls_token": True}, ("Dense", "Normalize"), r"sentence_transformers\.models\.Dense"),
        ({"pooling_mode_cls_token": True}, ("Normalize", "Normalize"), "Normalize in '2_Normalize' -> Normalize"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, (), "pools by mean_sqrt_len_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, (), "pools by mean_tokens and lasttoken"),
        ({"pooling_mode": "weightedmean"}, (), "pools by weightedmean"),
        ({"pooling_mode_mean_tokens": False}, ("Normalize",), "pools by nothing that it says"),
    ],
)
def test_modules_and_poolings_that_zoo_does_not_have(tmp_path: Path, pooling: dict[str, Any], more: tuple[str, ...], refusal: str) -> None:
    folder = saved_bert(small_bert("BertModel"), tmp_path / "theirs", **sentence_files(pooling, *more))
    with pytest.raises(CheckpointError, match=refusal):
        bundled(folder, "bert", tmp_path)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": False}, "max"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_a_sentence_encoder_goes_and_comes_back_the_same(tmp_path: Path, pooling: dict[str, Any], expected: str) -> None:
    """By zoo's own reader: pooling, length, and the vectors of texts, long ones among them."""
    files = sentence_files(pooling, "Normalize", max_seq_length=9)
    first = bundled(saved_bert(small_bert("BertModel"), tmp_path / "theirs", **files), "bert", tmp_path / "first")
    BertConverter().write(first, tmp_path / "ours")
    second = bundled(tmp_path / "ours", "bert", tmp_path / "second")
    texts = ["w1 w2 w3", "w4", " ".join(f"w{number}" for number in range(30))]
    answers = []
    for loaded in (first, second):
        assert loaded.bundle.config["model"]["head"]["pooling"] == expected
        codec: Any = loaded.processor.inputs["text"]
        assert codec.max_length == 9
        model: Any = loaded.model
        answers.append(
            [
                model.head(model.encoder(ids, torch.ones_like(ids, dtype=torch.bool)))["vectors"]
                for text in texts
                for ids in [codec.encode(text)["values"][None]]
            ]
        )
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))
    modules = json.loads((tmp_path / "ours" / "modules.json").read_text())
    assert [(module["path"], module["type"].rpartition(".")[2]) for module in modules] == [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Normalize", "Normalize"),
    ]


ACCENTED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ecole", "école", "Ecole", "École", "日", "日本", "##本", "本", "a"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
    ],
    ids=str,
)
def test_accents_and_chinese_are_cut_as_by_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    """As it reads vocab.txt beside tokenizer_config.json; and as it reads what zoo writes, by either of its classes."""
    from transformers import AutoTokenizer, BertTokenizer

    folder = saved_bert(small_bert("BertModel", vocab_size=len(ACCENTED)), tmp_path / "theirs", ACCENTED, **{"tokenizer_config.json": options})
    reference = BertTokenizer.from_pretrained(folder)
    loaded = bundled(folder, "bert", tmp_path)
    BertConverter().write(loaded, tmp_path / "ours")
    codec: Any = loaded.processor.inputs["text"]
    again: Any = bundled(tmp_path / "ours", "bert", tmp_path / "again").processor.inputs["text"]
    readers = [
        codec.ids,
        again.ids,
        *(lambda text, kind=kind: kind.from_pretrained(tmp_path / "ours")(text)["input_ids"] for kind in (AutoTokenizer, BertTokenizer)),
    ]
    for text in ("École a", "ecole école Ecole", "日本 a 本", "[MASK] É"):
        expected = reference(text)["input_ids"]
        assert [reader(text) for reader in readers] == [expected] * 4, text


@pytest.mark.parametrize("file", [{"strip_accents": "yes"}, {"do_lower_case": None}, {"model_max_length": 2}], ids=str)
def test_options_of_a_tokenizer_that_are_none(tmp_path: Path, file: dict[str, Any]) -> None:
    folder = saved_bert(small_bert("BertModel"), tmp_path / "theirs", **{"tokenizer_config.json": file})
    with pytest.raises(CheckpointError, match=next(iter(file))):
        bundled(folder, "bert", tmp_path)


def test_a_model_of_other_tokens_or_poolings_has_no_place_in_berts_layout(tmp_path: Path) -> None:
    from dataclasses import replace

    from zoo.data.codecs.text import TextCodec
    from zoo.data.processor import Processor
    from zoo.data.tokenizers.bpe import BpeTokenizer
    from zoo.data.tokenizers.byte import ByteTokenizer

    loaded = bundled(saved_bert(small_bert("BertModel"), tmp_path / "theirs"), "bert", tmp_path)
    bpe = BpeTokenizer(vocab_size=300)
    bpe.train(["a text"])
    for tokenizer in (bpe, ByteTokenizer()):
        other = replace(loaded, processor=Processor({"text": TextCodec(name="text", tokenizer=tokenizer, max_length=9)}, loaded.processor.targets))
        with pytest.raises(CheckpointError, match=rf"cut by {tokenizer.kind}, .*\n  way out 1: keep it"):
            BertConverter().write(other, tmp_path / "ours")
    for pooling in ("last", "auto"):
        config = loaded.bundle.config
        model = config["model"] | {"head": config["model"]["head"] | {"pooling": pooling}}
        with pytest.raises(CheckpointError, match=rf"model\.head\.pooling is {pooling}.* mean, cls or max is needed"):
            BertConverter().write(replace(loaded, bundle=replace(loaded.bundle, config=config | {"model": model})), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_two_classes_of_the_same_name(tmp_path: Path) -> None:
    """ImageNet has two cranes."""
    model = small_bert("BertForSequenceClassification", id2label={0: "crane", 1: "dog", 2: "crane"}, label2id={"crane": 2, "dog": 1})
    loaded = bundled(saved_bert(model, tmp_path / "theirs"), "bert", tmp_path)
    assert loaded.bundle.spec.targets[0].labels == ("crane (0)", "dog", "crane (2)")  # type: ignore[attr-defined]


def tiny_texts(folder: Path, *overrides: str) -> Path:
    """A run of two steps on a table of texts, with dotted overrides."""
    folder.mkdir()
    texts = "".join(f"w{number % 7} w{number % 11} w{number},{('no', 'yes', 'so so')[number % 3]}\n" for number in range(60))
    (folder / "texts.csv").write_text("text,label\n" + texts)
    data = {"name": "table", "path": str(folder / "texts.csv"), "target": "label", "text": "text", "tokenizer": {"name": "wordpiece", "vocab_size": 100}}
    encoder = {"name": "transformer", "dim": 12, "depth": 1, "heads": 2}
    tree: dict[str, Any] = {
        "name": "tiny",
        "data": data | {"max_length": 12, "batch_size": 8, "augment": {}},
        "model": {"encoder": encoder, "decoder": {"name": "none"}, "head": {"name": "classification", "pooling": "mean"}},
        "optimizer": {"name": "sgd"},
        "schedule": {"name": "constant"},
        "trainer": {"max_epochs": None, "max_steps": 2, "device": "cpu"},
    }
    for word in overrides:
        path, _, value = word.partition("=")
        _, part, option = path.split(".")
        tree["model"][part][option] = value
    run_job(RunConfig.from_dict(tree), folder / "run")
    return folder / "run"


def test_the_way_out_of_a_refused_export_leads_out(tmp_path: Path) -> None:
    """The overrides that the refusal names, typed as they stand, give a run that transformers loads whole, with zoo's own logits."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    refused = tiny_texts(tmp_path / "mean")
    with pytest.raises(CheckpointError, match=r"model\.head\.pooling is mean and model\.encoder\.pooler is none, .*a tanh make of the first token") as error:
        export_foreign(str(refused / "bundle"), tmp_path / "theirs", "bert")
    assert not (tmp_path / "theirs").exists()
    [line] = [line for line in str(error.value).splitlines() if "way out 1: train it with" in line]
    assert "way out 2: keep it as a bundle of zoo's: `zoo export MODEL --to DIR` without --as" in str(error.value)
    words = line.partition("train it with ")[2].split()
    assert {"model.encoder.pooler=first", "model.head.pooling=auto"} <= set(words)
    run = tiny_texts(tmp_path / "first", *words)
    export_foreign(str(run / "bundle"), tmp_path / "theirs", "bert")
    kind: Any = BertForSequenceClassification
    theirs, report = kind.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(report.values()), report
    model: Any = load_bundle(run).model
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "theirs")("w1 w2 w5")["input_ids"]])
    with torch.no_grad():
        close(model.head(model.encoder(ids, torch.ones_like(ids, dtype=torch.bool)))["logits"], theirs.eval()(ids).logits)


def test_a_pooler_with_another_activation_is_refused(tmp_path: Path) -> None:
    """zoo's has a tanh: read as that one, the pooled vectors would be wrong without a word."""
    from transformers import ViTConfig, ViTModel

    sizes = VITS["plain"] | {"pooler_act": "relu"}
    ViTModel(ViTConfig(**sizes)).save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=r"pooler_act='relu', where 'tanh' is needed"):
        bundled(tmp_path / "theirs", "vit", tmp_path / "refused")
    ViTModel(ViTConfig(**sizes), add_pooling_layer=False).save_pretrained(tmp_path / "without")
    assert bundled(tmp_path / "without", "vit", tmp_path / "read").bundle.config["model"]["encoder"]["pooler"] == "none"
