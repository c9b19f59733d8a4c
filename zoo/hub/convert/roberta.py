"""RoBERTa (Liu et al., 2019, https://arxiv.org/abs/1907.11692) as transformers writes it. https://huggingface.co/docs/transformers/model_doc/roberta"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.errors import CheckpointError
from zoo.hub.convert import bert, masked
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, layer
from zoo.hub.convert.sentence_transformers import SentencePooling
from zoo.hub.convert.snapshot import Snapshot, transformer_config
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

PADDING = 1
"""Its padding token; positions count from the number after it."""


def node(config: dict[str, Any], name: str) -> dict[str, Any]:
    """As BERT's, whose shape it has."""
    if config.get("pad_token_id", PADDING) != PADDING:
        raise CheckpointError(f"{name}: config.json: pad_token_id is {config['pad_token_id']}, where {PADDING} is needed: its positions count from there")
    return bert.encoder_node({"layer_norm_eps": 1e-5} | config, name)


def config_of(encoder: dict[str, Any]) -> dict[str, Any]:
    hidden = encoder["hidden"] or round(encoder["mlp_ratio"] * encoder["dim"])
    return transformer_config(encoder) | {"model_type": "roberta", "type_vocab_size": encoder["segments"], "intermediate_size": hidden}


def encoder_rules(encoder: dict[str, Any]) -> list[Rule]:
    return [rule for rule in bert.rules(encoder | {"pooler": "none"}, classifies=False) if encoder["segments"] or "segments" not in rule.ours[0]]


FAMILY = masked.Family(
    layout="RoBERTa",
    prefix="roberta.",
    base="RobertaModel",
    masked="RobertaForMaskedLM",
    classifier="RobertaForSequenceClassification",
    node=node,
    config=config_of,
    rules=encoder_rules,
    masked_rules=[*layer("head.dense", "lm_head.dense"), *layer("head.norm", "lm_head.layer_norm"), One("head.output.bias", "lm_head.bias")],
    classifier_rules=[*layer("encoder.pooler", "classifier.dense"), *layer("head.classifier", "classifier.out_proj")],
    head=lambda config: {"norm_eps": config["layer_norm_eps"]} if "layer_norm_eps" in config else {},
    head_config=lambda head: {"layer_norm_eps": head["norm_eps"]},
    table="embeddings.word_embeddings.weight",
    scores="lm_head.decoder.weight",
    copies=("lm_head.decoder.weight", "lm_head.decoder.bias"),
    needed={"placement": "post", "positions": "learned", "attention": "bidirectional", **bert.PLAIN, "embedding_norm": "auto"},
    activations=tuple(dict.fromkeys(bert.ACTIVATIONS.values())),
    positions="embeddings.position_embeddings.weight",
    skipped=PADDING + 1,
    ignored={"embeddings.position_ids": "counts from 0 upwards", "pooler.": "no task of its pretraining trained it"},
)


@CONVERTERS.register("roberta")
class RobertaConverter:
    """RoBERTa in the layout of transformers: encoders, masked language models and classifiers of texts.

    Args:
        pooling: of an encoder alone: config (what sentence-transformers' files say, mean without them), mean, cls or max.
    """

    model_types: ClassVar[tuple[str, ...]] = ("roberta",)

    def __init__(self, *, pooling: SentencePooling = SentencePooling.CONFIG) -> None:
        self.pooling = pooling

    def read(self, snapshot: Snapshot) -> Foreign:
        return masked.read(FAMILY, snapshot, self.pooling)

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        masked.write(FAMILY, loaded, folder)
