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
from zoo.hub.uri import inside
from zoo.registry import CONVERTERS
from zoo.specs import Labelling

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
HEADS_LEFT_OUT = {
    "cls.": "the head of its pretraining",
    "embeddings.position_ids": "counts from 0 upwards",
}
SINGLE, MULTI = "single_label_classification", "multi_label_classification"
CLASSIFIER = "BertForSequenceClassification"
ARCHITECTURES = ("BertModel", "BertForPreTraining", "BertForMaskedLM", CLASSIFIER)
"""Of transformers; the second and third are read as encoders, without the head of their pretraining."""
MODULES = ("Transformer", "Pooling", "Normalize")
"""Of sentence-transformers: what a vector passes through. zoo's have length 1 in any case, as those have that are compared by their cosine."""
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


class SentencePooling(StrEnum):
    CONFIG = "config"
    MEAN = "mean"
    CLS = "cls"
    MAX = "max"


POOLINGS = {
    "mean_tokens": SentencePooling.MEAN,
    "cls_token": SentencePooling.CLS,
    "max_tokens": SentencePooling.MAX,
    **{str(mode): mode for mode in (SentencePooling.MEAN, SentencePooling.CLS, SentencePooling.MAX)},
}
"""What sentence-transformers calls them: until its version 5 and since."""


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
        classifies = classifies_texts(config, tensors, name)
        encoder["pooler"] = "first" if "pooler.dense.weight" in tensors else "none"  # an embedding does not pass through it, and it is kept all the same
        codec = TextCodec(name="text", tokenizer=tokenizer_of(snapshot), max_length=_max_length(snapshot))
        if codec.tokenizer.vocab_size > config["vocab_size"]:
            raise CheckpointError(f"{name}: its tokenizer has {codec.tokenizer.vocab_size} entries, and its table of embeddings {config['vocab_size']} rows")
        encoder["extra_rows"] = config["vocab_size"] - codec.tokenizer.vocab_size
        target: Any = PairCodec(name="pair")
        head: dict[str, Any]
        if classifies:
            target = classes_of(config, tensors["classifier.weight"].shape[0], name)
            dropout = config.get("classifier_dropout")
            head = {"name": "classification", "dropout": encoder["dropout"] if dropout is None else float(dropout)}
        else:
            told = pooling_of(snapshot)
            head = {"name": "embedding", "pooling": str(told if self.pooling is SentencePooling.CONFIG else self.pooling)}
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
        tokenizer, max_length = tokenizer_and_length(loaded)
        state = dict(loaded.model.state_dict())
        vocabulary, dim = state["encoder.embedding.weight"].shape
        if not encoder["segments"]:
            state["encoder.segments.weight"] = torch.zeros(1, dim)
        tensors = write_all(rules(encoder | {"segments": encoder["segments"] or 1}, classifies=classifies), state)
        if classifies:
            tensors = {key if key.startswith("classifier.") else f"bert.{key}": value for key, value in tensors.items()}
        config = foreign_config(encoder, vocabulary, state["encoder.positions.weight"].shape[0], tokenizer.pad_id)
        if classifies:
            target: Any = loaded.processor.targets[next(iter(loaded.processor.targets))]
            labels = target.spec.labels
            config |= {
                "architectures": [CLASSIFIER],
                "id2label": {str(place): label for place, label in enumerate(labels)},
                "label2id": {label: place for place, label in enumerate(labels)},
                "problem_type": SINGLE if target.spec.labelling is Labelling.SINGLE else MULTI,
                "classifier_dropout": head["dropout"],
            }
        write_folder(folder, config, tensors, tokenizer, max_length)
        if not classifies:
            write_sentence_encoder(folder, "mean" if head["pooling"] == "auto" else head["pooling"], encoder["dim"], max_length)


def classifies_texts(config: dict[str, Any], tensors: dict[str, Tensor], name: str) -> bool:
    """Whether it is a classifier of texts; else it is an encoder.

    Raises:
        CheckpointError: for what else transformers makes of a BERT. Its tagger of tokens has a classifier too, whose numbers are another thing's.
    """
    told = config.get("architectures") or []
    strange = [str(entry) for entry in told if entry not in ARCHITECTURES] if isinstance(told, list) else [repr(told)]
    classifies = "classifier.weight" in tensors
    if strange:
        problem = f"config.json: architectures: {', '.join(strange)}, whose outputs zoo does not have"
    elif classifies and "pooler.dense.weight" not in tensors:
        problem = "has classifier.weight and no pooler.dense.weight: it classifies each token (BertForTokenClassification) and no text"
    elif CLASSIFIER in told and not classifies:
        problem = f"config.json: architectures: {CLASSIFIER}, and its tensors have no classifier.weight"
    else:
        return classifies
    raise CheckpointError(f"{name}: {problem}; read as another one, its numbers would be wrong\n  way out: a checkpoint of one of {', '.join(ARCHITECTURES)}")


def classes_of(config: dict[str, Any], count: int, name: str) -> ClassCodec:
    """Raises:
    CheckpointError: for a head that gives no classes.
    """
    kind = config.get("problem_type")
    if count < 2 or kind not in (None, SINGLE, MULTI):
        raise CheckpointError(
            f"{name}: its head gives {count} numbers, for problem_type={kind!r}; zoo reads classifiers of 2 classes or more ({SINGLE}, {MULTI}) and encoders"
        )
    return ClassCodec(name="label", labels=labels_of(config, count, name), labelling=Labelling.MULTI if kind == MULTI else Labelling.SINGLE)


def pooling_of(snapshot: Snapshot) -> SentencePooling:
    """How sentence-transformers pools it; the mean where its files are not there.

    Raises:
        CheckpointError: for modules and poolings that zoo does not have.
    """
    folder = _pooling_folder(snapshot)
    if folder is None:
        return SentencePooling.MEAN
    told = snapshot.optional(f"{folder}/config.json")
    modes = told.get("pooling_mode", [key.removeprefix("pooling_mode_") for key, value in told.items() if key.startswith("pooling_mode_") and value])
    names = list(map(str, modes)) if isinstance(modes, list) else [str(modes)]
    if len(names) != 1 or names[0] not in POOLINGS:
        raise CheckpointError(
            f"{snapshot.name}: {folder}/config.json: pools by {' and '.join(names) or 'nothing that it says'}, where exactly one is needed of "
            f"{', '.join(POOLINGS)}; other vectors would come out\n  way out: a checkpoint that pools so"
        )
    return POOLINGS[names[0]]


def _pooling_folder(snapshot: Snapshot) -> str | None:
    """By modules.json; the usual one where only that is there, None for an encoder that sentence-transformers has not made."""
    modules, usual = snapshot.rows("modules.json"), "1_Pooling"
    if modules is None:
        return usual if (snapshot.folder / usual / "config.json").is_file() else None
    types = [str(module.get("type")) for module in modules]
    kinds = tuple(kind.rpartition(".")[2] for kind in types)
    if strange := [kind for kind, last in zip(types, kinds, strict=True) if last not in MODULES or not kind.startswith("sentence_transformers.")]:
        raise CheckpointError(
            f"{snapshot.name}: modules.json: {strange[0]}: zoo has {', '.join(MODULES)} of sentence_transformers; without it other vectors would come out\n"
            "  way out: a checkpoint without this module"
        )
    paths = [str(module.get("path")) for module in modules]
    if kinds not in (MODULES, MODULES[:2]) or paths[0] or not inside(paths[1]):
        raise CheckpointError(
            f"{snapshot.name}: modules.json: {' -> '.join(f'{kind} in {path!r}' for kind, path in zip(kinds, paths, strict=True))}, where "
            "Transformer in '' -> Pooling in a folder (-> Normalize) is needed; other vectors would come out"
        )
    return paths[1]


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
    told = snapshot.optional("tokenizer_config.json")
    lowercase, accents, chinese = told.get("do_lower_case", True), told.get("strip_accents"), told.get("tokenize_chinese_chars", True)
    if not all(isinstance(value, bool) for value in (lowercase, chinese)) or not isinstance(accents, bool | None):
        given = f"do_lower_case={lowercase!r}, tokenize_chinese_chars={chinese!r}, strip_accents={accents!r}"
        raise CheckpointError(f"{snapshot.name}: tokenizer_config.json: {given}: true or false is needed (strip_accents: or null)")
    vocabulary = {token: place for place, token in enumerate(read_text(file).splitlines())}
    if lacking := [token for token in SPECIAL.values() if token not in vocabulary]:
        raise CheckpointError(f"{snapshot.name}: vocab.txt lacks {', '.join(lacking)}")
    return WordPieceTokenizer.of_vocabulary(vocabulary, lowercase=lowercase, strip_accents=accents, split_chinese=chinese)


def _max_length(snapshot: Snapshot) -> int:
    """Tokens at most: the positions that there are, or what sentence-transformers cuts to, or else the tokenizer."""
    positions: int = snapshot.config["max_position_embeddings"]
    for file, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        told = snapshot.optional(file).get(key)
        if told is None:
            continue
        if not isinstance(told, int | float) or told < 3:  # transformers writes 1e30 where there is no limit
            raise CheckpointError(f"{snapshot.name}: {file}: {key} is {json.dumps(told)}, where 3 tokens or more are needed")
        return int(min(positions, told))
    return positions


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
        if head["name"] == "embedding" and (head["pooling"] not in POOLINGS and (head["pooling"] != "auto" or encoder["pooler"] == "first")):
            given = f"model.head.pooling is {head['pooling']}" + (" (of what model.encoder.pooler=first makes)" if head["pooling"] == "auto" else "")
            wrong.append(f"{given}, where mean, cls or max is needed: sentence-transformers has no other of zoo's")
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


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], tokenizer: WordPieceTokenizer, max_length: int) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(folder)
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length} | SPECIAL | tokenizer.for_transformers()
    _write_json(folder / "tokenizer_config.json", told)


def tokenizer_and_length(loaded: "LoadedBundle") -> tuple[WordPieceTokenizer, int]:
    """Of a model whose tokens are BERT's; the length is in tokens.

    Raises:
        CheckpointError: for other inputs, and for tokenizers whose special tokens are not those that the layout names.
    """
    codec = loaded.processor.inputs[loaded.bundle.input.name]
    kind = codec.tokenizer.kind if isinstance(codec, TextCodec) else codec.kind
    if not isinstance(codec, TextCodec) or not isinstance(codec.tokenizer, WordPieceTokenizer):
        problem = f"its input is cut by {kind}, where a text and the tokenizer wordpiece are needed"
    elif lacking := [token for token in SPECIAL.values() if codec.tokenizer.library.token_to_id(token) is None]:
        problem = f"its tokenizer has no {', '.join(lacking)}"
    else:
        return codec.tokenizer, codec.max_length
    raise CheckpointError(
        f"the model has no place in BERT's layout: {problem}; transformers would cut texts in another way than the model was trained with\n"
        "  way out 1: keep it as a bundle of zoo's: `zoo export MODEL --to DIR` without --as\n  way out 2: train it with data/tokenizer=wordpiece"
    )


def write_sentence_encoder(folder: Path, pooling: str, dim: int, max_length: int) -> None:
    """What sentence-transformers keeps beside a BERT: the modules that a vector passes through, and where a text is cut."""
    paths = ("", *(f"{place}_{kind}" for place, kind in enumerate(MODULES) if place))
    rows = enumerate(zip(MODULES, paths, strict=True))
    _write_json(folder / "modules.json", [{"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"} for n, (kind, path) in rows])
    modes = {f"pooling_mode_{key}": POOLINGS[key] == pooling for key in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / paths[1]).mkdir()
    _write_json(folder / paths[1] / "config.json", {"word_embedding_dimension": dim} | modes)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})


def _write_json(file: Path, tree: Any) -> None:
    file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
