"""BERT (Devlin et al., 2019, https://arxiv.org/abs/1810.04805) as transformers writes it: BertModel, BertForMaskedLM, BertForSequenceClassification, and the
sentence encoders that sentence-transformers makes of it (MiniLM among them). https://huggingface.co/docs/transformers/model_doc/bert
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.masked import MaskedTokenCodec
from zoo.data.codecs.pair import PairCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign, no_place, other_options
from zoo.hub.convert.names import One, Rule, blocks, layer, read_all, stacked, write_all
from zoo.hub.convert.sentence_transformers import POOLINGS, SentencePooling, pooling_of, write_sentence_encoder
from zoo.hub.convert.snapshot import Snapshot, labels_of, transformer_config, wanted, write_json
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
PLAIN = {"norm": "layer", "biases": "all", "kv_heads": 0, "head_dim": 0, "scores": "scaled", "window": 0, "embedding_scale": "none"}
"""Options of zoo's encoder that are the same in all layouts of BERT's time."""
SINGLE, MULTI = "single_label_classification", "multi_label_classification"
CLASSIFIER = "BertForSequenceClassification"
ARCHITECTURES = ("BertModel", "BertForPreTraining", "BertForMaskedLM", CLASSIFIER)
"""Of transformers; the second and third are read as masked language models, where the head is there."""
TRANSFORM, SCORES = "cls.predictions.transform.dense.weight", "cls.predictions.decoder.weight"
MASKED_COPIES = (SCORES, "cls.predictions.decoder.bias")
"""What a masked language model holds twice."""
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


@CONVERTERS.register("bert")
class BertConverter:
    """BERT in the layout of transformers: encoders, sentence encoders, masked language models and classifiers of texts.

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
        masked = TRANSFORM in tensors
        if masked:
            tensors = one_matrix(tensors, codec.tokenizer.vocab_size, name)
            target = MaskedTokenCodec(name="masked", text=codec)
            head = {"name": "masked_tokens", "output": "tied", "activation": encoder["activation"], "norm_eps": encoder["norm_eps"]}
        elif classifies:
            target = classes_of(config, tensors["classifier.weight"].shape[0], name)
            dropout = config.get("classifier_dropout")
            head = {"name": "classification", "dropout": encoder["dropout"] if dropout is None else float(dropout)}
        else:
            told = pooling_of(snapshot)
            head = {"name": "embedding", "pooling": str(told if self.pooling is SentencePooling.CONFIG else self.pooling)}
        wanted_rules = [*rules(encoder, classifies=classifies), *(MASKED_RULES if masked else [])]
        left_out = HEADS_LEFT_OUT | {"cls.seq_relationship.": "tells whether two sentences follow each other"}
        if masked:
            left_out.pop("cls.")
        state, report = read_all(wanted_rules, tensors, unused=left_out, where=name)
        return Foreign(
            processor=Processor({"text": codec}, {target.spec.name: target}),
            model={"encoder": encoder, "head": head},
            state={key: value.to(torch.float32) for key, value in state.items()},
            report=report,
        )

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        model = loaded.bundle.config["model"]
        encoder, head = dict(model["encoder"]), model["head"]
        if encoder["hidden"]:
            encoder["mlp_ratio"] = encoder["hidden"] / encoder["dim"]
        classifies = head["name"] == "classification"
        refuse_other_architectures(encoder, head, model["decoder"])
        tokenizer, max_length = tokenizer_and_length(loaded)
        state = dict(loaded.model.state_dict())
        vocabulary, dim = state["encoder.embedding.weight"].shape
        if not encoder["segments"]:
            state["encoder.segments.weight"] = torch.zeros(1, dim)
        masked = head["name"] == "masked_tokens"
        named = [*rules(encoder | {"segments": encoder["segments"] or 1}, classifies=classifies), *(MASKED_RULES if masked else [])]
        tensors = write_all(named, state)
        if classifies or masked:
            tensors = {key if key.startswith(("classifier.", "cls.")) else f"bert.{key}": value for key, value in tensors.items()}
        if masked:
            bias = tensors["cls.predictions.bias"]
            tensors["cls.predictions.bias"] = torch.cat([bias, bias.new_zeros(vocabulary - len(bias))])
        config = foreign_config(encoder, vocabulary, state["encoder.positions.weight"].shape[0], tokenizer.pad_id)
        if masked:
            config["architectures"] = ["BertForMaskedLM"]
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
        if not classifies and not masked:
            write_sentence_encoder(folder, "mean" if head["pooling"] == "auto" else head["pooling"], encoder["dim"], max_length)


def one_matrix(tensors: dict[str, Tensor], entries: int, name: str) -> dict[str, Tensor]:
    """A masked language model's tensors without what it holds twice, and its bias of the tokenizer's entries alone.

    Raises:
        CheckpointError: where its scores are by another matrix than the table of embeddings.
    """
    if SCORES in tensors and not torch.equal(tensors[SCORES], tensors["embeddings.word_embeddings.weight"]):
        raise CheckpointError(f"{name}: {SCORES} is another matrix than the table of embeddings; the published ones share it, and zoo reads those")
    found = {key: value for key, value in tensors.items() if key not in MASKED_COPIES}
    return found | {"cls.predictions.bias": found["cls.predictions.bias"][:entries]}


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


MASKED_RULES: list[Rule] = [
    *layer("head.dense", "cls.predictions.transform.dense"),
    *layer("head.norm", "cls.predictions.transform.LayerNorm"),
    One("head.output.bias", "cls.predictions.bias"),
]


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
    if encoder["name"] != "transformer" or decoder["name"] != "none" or head["name"] not in ("classification", "embedding", "masked_tokens"):
        parts = f"{encoder['name']} -> {decoder['name']} -> {head['name']}"
        raise no_place("BERT", [f"it is {parts}, where transformer -> none -> classification, embedding or masked_tokens is needed"])
    normed = {} if encoder["embedding_norm"] == "after" else {"embedding_norm": "auto"}
    wrong, overrides = other_options(encoder, {"placement": "post", "positions": "learned", "attention": "bidirectional", **PLAIN, **normed})
    if encoder["activation"] not in ACTIVATIONS:
        wrong.append(f"model.encoder.activation is {encoder['activation']}, where one of {', '.join(ACTIVATIONS)} is needed")
        overrides.append("model.encoder.activation=gelu")
    if head["name"] == "classification" and (encoder["pooler"] != "first" or head["pooling"] != "auto"):
        wrong.append(
            f"model.head.pooling is {head['pooling']} and model.encoder.pooler is {encoder['pooler']}, where auto and first are needed: transformers' "
            f"{CLASSIFIER} classifies what a linear layer and a tanh make of the first token, and pools in no other way"
        )
        overrides += ["model.encoder.pooler=first"] if encoder["pooler"] != "first" else []
        overrides += ["model.head.pooling=auto"] if head["pooling"] != "auto" else []
    if head["name"] == "masked_tokens":
        like = {
            "before": "dense",
            "output": "tied",
            "output_bias": "with",
            "bias": "with",
            "activation": encoder["activation"],
            "norm_eps": encoder["norm_eps"],
        }
        told, more = other_options(head, like)
        wrong += [line.replace("model.encoder.", "model.head.") for line in told]
        overrides += [line.replace("model.encoder.", "model.head.") for line in more]
    if head["name"] == "embedding" and head["dim"]:
        wrong.append(f"model.head.dim is {head['dim']}, where 0 is needed: BERT has no layer after its encoder")
        overrides.append("model.head.dim=0")
    if head["name"] == "embedding" and (head["pooling"] not in POOLINGS and (head["pooling"] != "auto" or encoder["pooler"] == "first")):
        given = f"model.head.pooling is {head['pooling']}" + (" (of what model.encoder.pooler=first makes)" if head["pooling"] == "auto" else "")
        wrong.append(f"{given}, where mean, cls or max is needed: sentence-transformers has no other of zoo's")
        overrides.append("model.head.pooling=mean")
    if wrong:
        raise no_place("BERT", wrong, overrides)


def foreign_config(encoder: dict[str, Any], vocabulary: int, positions: int, pad: int) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "max_position_embeddings": positions,
        "type_vocab_size": encoder["segments"] or 1,
        "vocab_size": vocabulary,
        "pad_token_id": pad,
    } | transformer_config(encoder)


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], tokenizer: WordPieceTokenizer, max_length: int) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(folder)
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length} | SPECIAL | tokenizer.for_transformers()
    write_json(folder / "tokenizer_config.json", told)


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
