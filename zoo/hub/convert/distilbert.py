"""DistilBERT (Sanh et al., 2019, https://arxiv.org/abs/1910.01108) as transformers writes it: encoders and masked language models. Its classifiers have a
rectifier where zoo's have a tanh, and are refused. https://huggingface.co/docs/transformers/model_doc/distilbert
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.errors import CheckpointError
from zoo.hub.convert import bert, masked
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, blocks, layer, stacked
from zoo.hub.convert.sentence_transformers import SentencePooling
from zoo.hub.convert.snapshot import Snapshot, wanted
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

EPS = 1e-12
ACTIVATIONS = {"gelu": "gelu", "relu": "relu"}


def node(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Raises:
    CheckpointError: for what its config lacks, and for variants whose numbers would be others.
    """
    dim, depth, heads, hidden, positions, _ = wanted(
        config, name, dim=int, n_layers=int, n_heads=int, hidden_dim=int, max_position_embeddings=int, vocab_size=int
    )
    act = config.get("activation", "gelu")
    if act not in ACTIVATIONS:
        raise CheckpointError(f"{name}: config.json: activation={act!r}: a variant of DistilBERT that zoo does not have; its numbers would be others")
    return {
        "name": "transformer",
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "hidden": hidden,
        "max_positions": positions,
        "placement": "post",
        "activation": ACTIVATIONS[act],
        "dropout": float(config.get("dropout", 0.1)),
        "attention_dropout": float(config.get("attention_dropout", 0.1)),
        "norm_eps": EPS,
    }


def config_of(encoder: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "distilbert",
        "dim": encoder["dim"],
        "n_layers": encoder["depth"],
        "n_heads": encoder["heads"],
        "hidden_dim": encoder["hidden"] or round(encoder["mlp_ratio"] * encoder["dim"]),
        "activation": encoder["activation"],
        "dropout": encoder["dropout"],
        "attention_dropout": encoder["attention_dropout"],
        "sinusoidal_pos_embds": False,
    }


def encoder_rules(encoder: dict[str, Any]) -> list[Rule]:
    theirs, ours = "transformer.layer.{n}", "encoder.blocks.{n}"
    block: list[Rule] = [
        *stacked(f"{ours}.attention.qkv", [f"{theirs}.attention.{letter}_lin" for letter in "qkv"], encoder["heads"]),
        *layer(f"{ours}.attention.proj", f"{theirs}.attention.out_lin"),
        *layer(f"{ours}.norm1", f"{theirs}.sa_layer_norm"),
        *layer(f"{ours}.mlp.fc1", f"{theirs}.ffn.lin1"),
        *layer(f"{ours}.mlp.fc2", f"{theirs}.ffn.lin2"),
        *layer(f"{ours}.norm2", f"{theirs}.output_layer_norm"),
    ]
    return [
        One("encoder.embedding.weight", "embeddings.word_embeddings.weight"),
        One("encoder.positions.weight", "embeddings.position_embeddings.weight"),
        *layer("encoder.embedding_norm", "embeddings.LayerNorm"),
        *blocks(encoder["depth"], block),
    ]


FAMILY = masked.Family(
    layout="DistilBERT",
    prefix="distilbert.",
    base="DistilBertModel",
    masked="DistilBertForMaskedLM",
    classifier=None,
    node=node,
    config=config_of,
    rules=encoder_rules,
    masked_rules=[*layer("head.dense", "vocab_transform"), *layer("head.norm", "vocab_layer_norm"), One("head.output.bias", "vocab_projector.bias")],
    classifier_rules=[],
    head=lambda config: {"norm_eps": EPS, "activation": ACTIVATIONS[config.get("activation", "gelu")]},
    head_config=lambda head: {},  # noqa: ARG005 - it is the encoder's
    table="embeddings.word_embeddings.weight",
    scores="vocab_projector.weight",
    copies=("vocab_projector.weight",),
    needed={"placement": "post", "positions": "learned", "attention": "bidirectional", **bert.PLAIN, "embedding_norm": "auto", "norm_eps": EPS, "segments": 0},
    activations=tuple(ACTIVATIONS.values()),
    positions="embeddings.position_embeddings.weight",
    ignored={"embeddings.position_ids": "counts from 0 upwards"},
)


@CONVERTERS.register("distilbert")
class DistilBertConverter:
    """DistilBERT in the layout of transformers: encoders and masked language models.

    Args:
        pooling: of an encoder alone: config (what sentence-transformers' files say, mean without them), mean, cls or max.
    """

    model_types: ClassVar[tuple[str, ...]] = ("distilbert",)

    def __init__(self, *, pooling: SentencePooling = SentencePooling.CONFIG) -> None:
        self.pooling = pooling

    def read(self, snapshot: Snapshot) -> Foreign:
        return masked.read(FAMILY, snapshot, self.pooling)

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        masked.write(FAMILY, loaded, folder)
