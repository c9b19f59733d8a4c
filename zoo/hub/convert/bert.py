"""BERT (Devlin et al., 2019, https://arxiv.org/abs/1810.04805) as transformers writes it: BertModel, BertForSequenceClassification, and the
sentence encoders that sentence-transformers makes of it (MiniLM among them). https://huggingface.co/docs/transformers/model_doc/bert
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.pair import PairCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, blocks, layer, read_all, stacked, write_all
from zoo.hub.convert.snapshot import Snapshot, labels_of, wanted
from zoo.hub.files import read_text
from zoo.registry import CONVERTERS
from zoo.specs import Labelling

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
HEADS_LEFT_OUT = {
    "cls.": "the head of its pretraining",
    "embeddings.position_ids": "counts from 0 upwards",
}


class SentencePooling(StrEnum):
    CONFIG = "config"
    MEAN = "mean"
    CLS = "cls"
    MAX = "max"


@CONVERTERS.register("bert")
class BertConverter:
    """BERT in the layout of transformers: encoders, sentence encoders and classifiers of texts.

    Args:
        pooling: of an encoder without a classifier: config (what sentence-transformers' files say, mean without them), mean, cls or max.
    """

    model_types: ClassVar[tuple[str, ...]] = ("bert",)

    def __init__(self, *, pooling: SentencePooling = SentencePooling.CONFIG) -> None:
        self.pooling = pooling

    def read(self, snapshot: Snapshot) -> Foreign:
        config, name = snapshot.config, snapshot.name
        encoder = encoder_node(config, name)
        tensors = {_modern(key.removeprefix("bert.")): value for key, value in snapshot.tensors.items()}
        classifies = "classifier.weight" in tensors
        encoder["pooler"] = "first" if "pooler.dense.weight" in tensors else "none"  # an embedding does not pass through it, and it is kept all the same
        codec = TextCodec(name="text", tokenizer=tokenizer_of(snapshot), max_length=_max_length(snapshot))
        if codec.tokenizer.vocab_size > config["vocab_size"]:
            raise CheckpointError(f"{name}: its tokenizer has {codec.tokenizer.vocab_size} entries, and its table of embeddings {config['vocab_size']} rows")
        encoder["extra_rows"] = config["vocab_size"] - codec.tokenizer.vocab_size
        target: Any = PairCodec(name="pair")
        head: dict[str, Any] = {"name": "embedding", "pooling": str(self._pooling(snapshot))}
        if classifies:
            count = tensors["classifier.weight"].shape[0]
            multi = config.get("problem_type") == "multi_label_classification"
            if count < 2 or config.get("problem_type") == "regression":
                raise CheckpointError(f"{name}: its head gives {count} number, for a regression; zoo reads classifiers and encoders of BERT")
            target = ClassCodec(name="label", labels=labels_of(config, count, name), labelling=Labelling.MULTI if multi else Labelling.SINGLE)
            dropout = config.get("classifier_dropout")
            head = {"name": "classification", "dropout": float(config["hidden_dropout_prob"] if dropout is None else dropout)}
        state, report = read_all(rules(encoder, classifies=classifies), tensors, unused=HEADS_LEFT_OUT, where=name)
        return Foreign(
            processor=Processor({"text": codec}, {target.spec.name: target}),
            model={"encoder": encoder, "head": head},
            state={key: value.to(torch.float32) for key, value in state.items()},
            report=report,
        )

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        model = loaded.bundle.config["model"]
        encoder, head = dict(model["encoder"]), model["head"]
        classifies = head["name"] == "classification"
        refuse_other_architectures(encoder, head, model["decoder"])
        codec: Any = loaded.processor.inputs[loaded.bundle.input.name]
        state = dict(loaded.model.state_dict())
        vocabulary, dim = state["encoder.embedding.weight"].shape
        if not encoder["segments"]:
            state["encoder.segments.weight"] = torch.zeros(1, dim)
        tensors = write_all(rules(encoder | {"segments": encoder["segments"] or 1}, classifies=classifies), state)
        if classifies:
            tensors = {key if key.startswith("classifier.") else f"bert.{key}": value for key, value in tensors.items()}
        config = foreign_config(encoder, vocabulary, state["encoder.positions.weight"].shape[0], codec.tokenizer.pad_id)
        if classifies:
            target: Any = loaded.processor.targets[next(iter(loaded.processor.targets))]
            labels = target.spec.labels
            config |= {
                "architectures": ["BertForSequenceClassification"],
                "id2label": {str(place): label for place, label in enumerate(labels)},
                "label2id": {label: place for place, label in enumerate(labels)},
                "problem_type": "single_label_classification" if target.spec.labelling is Labelling.SINGLE else "multi_label_classification",
                "classifier_dropout": head["dropout"],
            }
        write_folder(folder, config, tensors, codec)

    def _pooling(self, snapshot: Snapshot) -> SentencePooling:
        if self.pooling is not SentencePooling.CONFIG:
            return self.pooling
        told = snapshot.optional("1_Pooling/config.json")
        modes = {
            SentencePooling.MEAN: "pooling_mode_mean_tokens",
            SentencePooling.CLS: "pooling_mode_cls_token",
            SentencePooling.MAX: "pooling_mode_max_tokens",
        }
        chosen = [mode for mode, key in modes.items() if told.get(key)]
        if told and len(chosen) != 1:
            raise CheckpointError(f"{snapshot.name}: 1_Pooling/config.json asks for another pooling than one of mean, cls and max")
        return chosen[0] if chosen else SentencePooling.MEAN


def encoder_node(config: dict[str, Any], name: str) -> dict[str, Any]:
    """zoo's encoder for a BERT.

    Raises:
        CheckpointError: for variants whose numbers would be others.
    """
    dim, depth, heads, hidden, positions, segments, _ = wanted(
        config,
        name,
        hidden_size=int,
        num_hidden_layers=int,
        num_attention_heads=int,
        intermediate_size=int,
        max_position_embeddings=int,
        type_vocab_size=int,
        vocab_size=int,
    )
    (eps,) = wanted({"layer_norm_eps": 1e-12} | config, name, layer_norm_eps=float)
    act = config.get("hidden_act", "gelu")
    refused = {
        f"hidden_act={act!r}": act not in ACTIVATIONS,
        f"position_embedding_type={config.get('position_embedding_type')!r}": config.get("position_embedding_type", "absolute") != "absolute",
        "is_decoder=true": bool(config.get("is_decoder")),
        "add_cross_attention=true": bool(config.get("add_cross_attention")),
    }
    if found := [what for what, wrong in refused.items() if wrong]:
        raise CheckpointError(f"{name}: config.json: {found[0]}: a variant of BERT that zoo does not have; its numbers would be others")
    return {
        "name": "transformer",
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": hidden / dim,
        "max_positions": positions,
        "segments": segments,
        "placement": "post",
        "activation": ACTIVATIONS[act],
        "dropout": float(config.get("hidden_dropout_prob", 0.1)),
        "attention_dropout": float(config.get("attention_probs_dropout_prob", 0.1)),
        "norm_eps": eps,
    }


def rules(encoder: dict[str, Any], *, classifies: bool) -> list[Rule]:
    """Names of zoo's tensors and BERT's."""
    theirs = "encoder.layer.{n}"
    ours = "encoder.blocks.{n}"
    heads = encoder["heads"]
    found: list[Rule] = [
        One("encoder.embedding.weight", "embeddings.word_embeddings.weight"),
        One("encoder.positions.weight", "embeddings.position_embeddings.weight"),
        One("encoder.segments.weight", "embeddings.token_type_embeddings.weight"),
        *layer("encoder.embedding_norm", "embeddings.LayerNorm"),
        *blocks(
            encoder["depth"],
            [
                *stacked(f"{ours}.attention.qkv", [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")], heads),
                *layer(f"{ours}.attention.proj", f"{theirs}.attention.output.dense"),
                *layer(f"{ours}.norm1", f"{theirs}.attention.output.LayerNorm"),
                *layer(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense"),
                *layer(f"{ours}.mlp.fc2", f"{theirs}.output.dense"),
                *layer(f"{ours}.norm2", f"{theirs}.output.LayerNorm"),
            ],
        ),
    ]
    found += layer("encoder.pooler", "pooler.dense") if encoder["pooler"] == "first" else []
    return [*found, *layer("head.classifier", "classifier")] if classifies else found


def tokenizer_of(snapshot: Snapshot) -> WordPieceTokenizer:
    """From tokenizer.json; of a checkpoint older than that, from vocab.txt.

    Raises:
        CheckpointError: where there is neither.
    """
    if (snapshot.folder / "tokenizer.json").is_file():
        return WordPieceTokenizer.load(snapshot.folder)
    file = snapshot.folder / "vocab.txt"
    if not file.is_file():
        raise CheckpointError(f"{snapshot.name}: has neither tokenizer.json nor vocab.txt")
    vocabulary = {token: place for place, token in enumerate(read_text(file).splitlines())}
    if lacking := [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]:
        raise CheckpointError(f"{snapshot.name}: vocab.txt lacks {', '.join(lacking)}")
    return WordPieceTokenizer.of_vocabulary(vocabulary, lowercase=bool(snapshot.optional("tokenizer_config.json").get("do_lower_case", True)))


def _max_length(snapshot: Snapshot) -> int:
    """Tokens at most: the positions that there are, or what sentence-transformers cuts to."""
    positions: int = snapshot.config["max_position_embeddings"]
    told = snapshot.optional("sentence_bert_config.json").get("max_seq_length")
    return min(positions, told) if isinstance(told, int) and told >= 3 else positions


def _modern(key: str) -> str:
    """TensorFlow's names of a norm's tensors, in the oldest checkpoints."""
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def refuse_other_architectures(encoder: dict[str, Any], head: dict[str, Any], decoder: dict[str, Any]) -> None:
    """Raises:
    CheckpointError: for a model that is no BERT; says every difference.
    """
    wrong = []
    if encoder["name"] != "transformer" or decoder["name"] != "none" or head["name"] not in ("classification", "embedding"):
        wrong.append(f"it is {encoder['name']} -> {decoder['name']} -> {head['name']}, where transformer -> none -> classification or embedding is needed")
    else:
        for key, value in (("placement", "post"), ("positions", "learned"), ("attention", "bidirectional"), ("drop_path", 0.0)):
            if encoder[key] != value and key != "drop_path":
                wrong.append(f"model.encoder.{key} is {encoder[key]}, where {value} is needed")
        if encoder["activation"] not in ACTIVATIONS:
            wrong.append(f"model.encoder.activation is {encoder['activation']}, where one of {', '.join(ACTIVATIONS)} is needed")
        if head["name"] == "classification" and (encoder["pooler"] != "first" or head["pooling"] != "auto"):
            wrong.append("BERT classifies what its pooler makes of position 0: model.encoder.pooler=first and model.head.pooling=auto are needed")
        if head["name"] == "embedding" and head["dim"]:
            wrong.append("BERT has no layer after its encoder: model.head.dim=0 is needed")
    if wrong:
        raise CheckpointError("the model has no place in BERT's layout:\n  " + "\n  ".join(wrong))


def foreign_config(encoder: dict[str, Any], vocabulary: int, positions: int, pad: int) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": encoder["dim"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["heads"],
        "intermediate_size": round(encoder["mlp_ratio"] * encoder["dim"]),
        "hidden_act": encoder["activation"],
        "hidden_dropout_prob": encoder["dropout"],
        "attention_probs_dropout_prob": encoder["attention_dropout"],
        "max_position_embeddings": positions,
        "type_vocab_size": encoder["segments"] or 1,
        "layer_norm_eps": encoder["norm_eps"],
        "vocab_size": vocabulary,
        "pad_token_id": pad,
        "dtype": "float32",
    }


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], codec: TextCodec) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    codec.tokenizer.save(folder)
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": codec.max_length,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"sep_token": "[SEP]", "mask_token": "[MASK]"}, indent=2) + "\n", encoding="utf-8")
