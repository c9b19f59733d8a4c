"""Foreign checkpoints with anything wrong in them: one message of zoo's, or a model that loads with the numbers of the whole one; never another exception.

Small models that transformers saved, each of whose config's values and tensors is broken in turn.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import CheckpointError, ZooError
from zoo.hub.bundle import load_bundle
from zoo.hub.convert import convert, converter_of
from zoo.hub.convert.names import One, Stacked, blocks, patches, read_all, squeezed
from zoo.hub.convert.snapshot import different, labels_of

JUNK: tuple[Any, ...] = (None, -1, 0, 10**30, "", "x", [], {"0": None})
CHANGES_NUMBERS = {
    "layer_norm_eps",  # is no shape's, and any small number is one
    "num_attention_heads",  # any divisor of the width
}
UNREAD = {
    *("bos_token_id", "chunk_size_feed_forward", "dtype", "encoder_stride", "eos_token_id", "initializer_range", "is_encoder_decoder", "label2id"),
    *("output_attentions", "output_hidden_states", "pad_token_id", "pooler_output_size", "return_dict", "tie_word_embeddings", "transformers_version"),
    *("use_cache", "word_embedding_dimension"),
}
"""What no number depends on; broken all at once."""
OF_CLASSIFIERS = {"architectures", "classifier_dropout", "hidden_dropout_prob", "id2label", "model_type", "problem_type"}
"""The rest is read as in an encoder, and broken there."""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
FILES = {
    "bert": {
        "tokenizer_config.json": {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True, "model_max_length": 30},
        "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 12, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    },
    "vit": {"preprocessor_config.json": {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "rescale_factor": 1 / 255}},
}


@pytest.fixture(scope="module", params=["bert encoder", "bert classifier", "vit encoder", "vit classifier"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    kind, role = request.param.split()
    torch.manual_seed(0)
    model: Any
    if kind == "bert":
        config: Any = transformers.BertConfig(**SIZES, vocab_size=len(WORDS), max_position_embeddings=24, num_labels=3)
        model = (transformers.BertModel if role == "encoder" else transformers.BertForSequenceClassification)(config)
    else:
        config = transformers.ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3)
        model = (transformers.ViTModel if role == "encoder" else transformers.ViTForImageClassification)(config)
    folder = tmp_path_factory.mktemp(kind)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    for name, tree in FILES[kind].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(tree))
    return folder


def read(folder: Path, scratch: Path) -> dict[str, Any]:
    """What a model with fixed inputs answers."""
    bundle = scratch / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.mkdir()
    convert(folder, bundle, converter_of({"config.json": folder / "config.json"}), {}, name="foreign", source="a test")
    loaded = load_bundle(bundle)
    model: Any = loaded.model
    generator = torch.Generator().manual_seed(0)
    text = "text" in loaded.processor.inputs
    values = torch.randint(5, len(WORDS), (2, 7), generator=generator) if text else torch.randn(2, 3, 8, 8, generator=generator)
    with torch.no_grad():
        answer: dict[str, Any] = model.head(model.encoder(values, torch.ones(2, 7, dtype=torch.bool)) if text else model.encoder(values))
    return answer


def outcome(folder: Path, scratch: Path, where: str) -> tuple[str, dict[str, Any]]:
    """The message, or the answer; whatever else is raised is a failure of the test."""
    try:
        return "", read(folder, scratch)
    except ZooError as error:
        return str(error) or "no message", {}
    except Exception as error:
        error.add_note(where)
        raise


def copied(saved: Path, scratch: Path) -> Path:
    shutil.copytree(saved, scratch / "broken", dirs_exist_ok=True)
    return scratch / "broken"


def broken_trees(tree: dict[str, Any], *, classifies: bool) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    read = [key for key in tree if (key in OF_CLASSIFIERS if classifies else key not in UNREAD)]
    for key, value in itertools.product(read, JUNK):
        yield key, value, tree | {key: value}
    for key in read:
        yield key, "absent", {name: value for name, value in tree.items() if name != key}
    for value in JUNK:
        yield "unread", value, tree | {key: value for key in tree if key in UNREAD}


def test_every_value_of_every_config(saved: Path, tmp_path: Path) -> None:
    whole = read(saved, tmp_path)
    folder = copied(saved, tmp_path)
    failures, refused = [], 0
    classifies = "Classification" in (saved / "config.json").read_text()
    for file in [folder / "config.json"] if classifies else sorted(folder.rglob("*.json")):
        text = file.read_text()
        for key, value, tree in broken_trees(json.loads(text), classifies=classifies):
            file.write_text(json.dumps(tree))
            where = f"{file.name}: {key}={value!r}"
            problem, found = outcome(folder, tmp_path, where)
            refused += bool(problem)
            if problem == "no message" or (problem and key == "unread"):
                failures.append(f"{where}: refused: {problem}")
            same = found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
            if not problem and not same and key not in CHANGES_NUMBERS:
                failures.append(f"{where}: other numbers")
        file.write_text(text)
    assert not failures, "\n".join(failures[:20])
    assert refused > 15


def test_every_tensor(saved: Path, tmp_path: Path) -> None:
    """Gone, of another name, of other shapes: each is refused."""
    folder = copied(saved, tmp_path)
    tensors = load_file(saved / "model.safetensors")
    failures = []
    for name, tensor in tensors.items():
        rest = {key: value for key, value in tensors.items() if key != name}
        others = {"reshaped": torch.zeros(*tensor.shape, 1), "flat": tensor.flatten(), "longer": torch.cat([tensor, tensor]), "scalar": torch.tensor(0.5)}
        cases = {"gone": rest, "renamed": rest | {f"{name}_": tensor}} | {
            what: rest | {name: other} for what, other in others.items() if other.shape != tensor.shape
        }
        for what, state in cases.items():
            save_file(state, folder / "model.safetensors")
            problem, _ = outcome(folder, tmp_path, f"{name} {what}")
            if not problem and not name.startswith(("pooler.dense", "classifier")):  # without both, it is an encoder without a pooler
                failures.append(f"{name} {what}: taken")
    assert not failures, "\n".join(failures[:20])


def test_shapes_that_do_not_go_together_are_named() -> None:
    tensors = {"q": torch.zeros(4, 4), "k": torch.zeros(6, 4), "v": torch.zeros(4, 4), "table": torch.zeros(2, 5, 4)}
    with pytest.raises(CheckpointError, match=r"file: q \[4, 4\], k \[6, 4\], v \[4, 4\]: no qkv can be made of that"):
        read_all([Stacked("qkv", ("q", "k", "v"), 2)], tensors, unused={}, where="file")
    with pytest.raises(CheckpointError, match=r"table \[2, 5, 4\].*\[1, N, D\] is needed"):
        read_all([squeezed("positions", "table")], tensors, unused={"": "elsewhere"}, where="file")
    with pytest.raises(CheckpointError, match=r"conv.weight \[8, 3, 2, 8\].*\[D, C, 4, 4\] are needed"):
        read_all(patches("proj", "conv", 4), {"conv.weight": torch.zeros(8, 3, 2, 8), "conv.bias": torch.zeros(8)}, unused={}, where="file")


def test_a_depth_without_end_is_refused_at_once() -> None:
    with pytest.raises(CheckpointError, match=r"asks for 1e\+30 blocks"):
        blocks(10**30, [One("{n}", "{n}")])


def test_labels() -> None:
    def named(*labels: Any) -> dict[str, Any]:
        return {"id2label": {str(place): label for place, label in enumerate(labels)}}

    assert labels_of({}, 2, "x") == ("LABEL_0", "LABEL_1")
    assert labels_of(named("crane", "None", "crane"), 3, "x") == ("crane (0)", "None", "crane (2)")
    assert len(set(different(["a", "a", "a (0)"]))) == 3
    for config in (named("a"), named("a", "b", "c"), named("a", None), {"id2label": {"1": "a", "2": "b"}}, {"id2label": ["a", "b"]}, {"id2label": "ab"}):
        with pytest.raises(CheckpointError, match=r"id2label .* names of 2 outputs"):
            labels_of(config, 2, "x")
