"""ModernBERT (Warner et al., 2024, https://arxiv.org/abs/2412.13663) as transformers writes it: encoders and masked language models. Its classifiers pool and
norm in an order of their own, and are refused. https://huggingface.co/docs/transformers/model_doc/modernbert
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoo.errors import CheckpointError
from zoo.hub.convert import masked
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, blocks, layer, stacked
from zoo.hub.convert.sentence_transformers import SentencePooling
from zoo.hub.convert.snapshot import Snapshot, wanted
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

FULL, SLIDING = "full_attention", "sliding_attention"


def node(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Raises:
    CheckpointError: for what its config lacks, and for variants whose numbers would be others.
    """
    dim, depth, heads, hidden, _, _ = wanted(
        config,
        name,
        hidden_size=int,
        num_hidden_layers=int,
        num_attention_heads=int,
        intermediate_size=int,
        max_position_embeddings=int,
        vocab_size=int,
    )
    (eps,) = wanted({"norm_eps": 1e-5} | config, name, norm_eps=float)
    rope = config.get("rope_parameters") or {}
    far, near = ((rope.get(kind) or {}) for kind in (FULL, SLIDING))
    every = spacing(config, depth, name)
    refused = {
        f"hidden_activation={config.get('hidden_activation')!r}": config.get("hidden_activation", "gelu") != "gelu",
        **{f"{key}=true": bool(config.get(key)) for key in ("norm_bias", "attention_bias", "mlp_bias")},
        **{f"rope_type={part.get('rope_type')!r}": part.get("rope_type", "default") != "default" for part in (far, near)},
    }
    if found := [what for what, wrong in refused.items() if wrong]:
        raise CheckpointError(f"{name}: config.json: {found[0]}: a variant of ModernBERT that zoo does not have; its numbers would be others")
    period = float(far.get("rope_theta", config.get("global_rope_theta", 160_000.0)))
    local = near.get("rope_theta", config.get("local_rope_theta"))
    local = period if local is None else float(local)
    windowed = every != 1
    return {
        "name": "transformer",
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "hidden": hidden,
        "positions": "rotary",
        "activation": "geglu",
        "biases": "none",
        "embedding_norm": "first",
        "norm_eps": eps,
        "rotary_period": period,
        "local_period": local if windowed else 0.0,
        "window": int(config.get("local_attention", 128)) // 2 if windowed else 0,
        "global_every": every if windowed else 0,
        "dropout": float(config.get("mlp_dropout", 0.0)),
        "attention_dropout": float(config.get("attention_dropout", 0.0)),
    }


def spacing(config: dict[str, Any], depth: int, name: str) -> int:
    """Every how manieth block, the first included, sees all positions.

    Raises:
        CheckpointError: for blocks in another order.
    """
    kinds = config.get("layer_types")
    if kinds is None:
        return int(config.get("global_attn_every_n_layers", 3))
    full = [place for place, kind in enumerate(kinds) if kind == FULL]
    every = full[1] if len(full) > 1 else depth
    if len(kinds) != depth or full != list(range(0, depth, max(every, 1))):
        raise CheckpointError(f"{name}: config.json: layer_types: {FULL} at {full} of {depth} blocks, where zoo has it at the first and every so manieth")
    return every


def config_of(encoder: dict[str, Any]) -> dict[str, Any]:
    every = encoder["global_every"] or 1
    return {
        "model_type": "modernbert",
        "hidden_size": encoder["dim"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["heads"],
        "intermediate_size": encoder["hidden"] or round(encoder["mlp_ratio"] * encoder["dim"]),
        "hidden_activation": "gelu",
        "norm_eps": encoder["norm_eps"],
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": encoder["attention_dropout"],
        "mlp_dropout": encoder["dropout"],
        "embedding_dropout": encoder["dropout"],
        "local_attention": 2 * encoder["window"] or 128,
        "global_attn_every_n_layers": every,
        "layer_types": [FULL if place % every == 0 else SLIDING for place in range(encoder["depth"])],
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": encoder["rotary_period"]},
            SLIDING: {"rope_type": "default", "rope_theta": encoder["local_period"] or encoder["rotary_period"]},
        },
    }


def interleave(halves: Tensor) -> Tensor:
    """The rows of two halves in turn."""
    return torch.stack(halves.chunk(2), dim=1).flatten(0, 1)


def halve(rows: Tensor) -> Tensor:
    """Rows in turn as two halves."""
    return torch.cat([rows[0::2], rows[1::2]])


def encoder_rules(encoder: dict[str, Any]) -> list[Rule]:
    theirs, ours = "layers.{n}", "encoder.blocks.{n}"
    block: list[Rule] = [
        One(f"{ours}.norm1.weight", f"{theirs}.attn_norm.weight"),
        *stacked(f"{ours}.attention.qkv", [f"{theirs}.attn.Wqkv"], encoder["heads"], "weight"),
        *layer(f"{ours}.attention.proj", f"{theirs}.attn.Wo", "weight"),
        *layer(f"{ours}.norm2", f"{theirs}.mlp_norm", "weight"),
        One(f"{ours}.mlp.fc1.weight", f"{theirs}.mlp.Wi.weight", interleave, halve),
        *layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.Wo", "weight"),
    ]
    found: list[Rule] = [
        One("encoder.embedding.weight", "embeddings.tok_embeddings.weight"),
        *layer("encoder.embedding_norm", "embeddings.norm", "weight"),
        *blocks(encoder["depth"], block),
        *layer("encoder.norm", "final_norm", "weight"),
    ]
    return [rule for rule in found if rule.ours[0] != "encoder.blocks.0.norm1.weight"]  # the norm after the embedding stands for it


FAMILY = masked.Family(
    layout="ModernBERT",
    prefix="model.",
    base="ModernBertModel",
    masked="ModernBertForMaskedLM",
    classifier=None,
    node=node,
    config=config_of,
    rules=encoder_rules,
    masked_rules=[*layer("head.dense", "head.dense", "weight"), *layer("head.norm", "head.norm", "weight"), One("head.output.bias", "decoder.bias")],
    classifier_rules=[],
    head=lambda config: {"bias": "none"} | ({"norm_eps": float(config["norm_eps"])} if "norm_eps" in config else {}),
    head_config=lambda head: {"classifier_bias": False, "decoder_bias": True, "classifier_activation": head["activation"]},
    table="embeddings.tok_embeddings.weight",
    scores="decoder.weight",
    copies=("decoder.weight",),
    needed={
        "placement": "pre",
        "positions": "rotary",
        "attention": "bidirectional",
        "norm": "layer",
        "biases": "none",
        "kv_heads": 0,
        "head_dim": 0,
        "scores": "scaled",
        "segments": 0,
        "embedding_norm": "first",
        "embedding_scale": "none",
        "rotary_stretch": 1.0,
    },
    activations=("geglu",),
)


@CONVERTERS.register("modernbert")
class ModernBertConverter:
    """ModernBERT in the layout of transformers: encoders and masked language models.

    Args:
        pooling: of an encoder alone: config (what sentence-transformers' files say, mean without them), mean, cls or max.
    """

    model_types: ClassVar[tuple[str, ...]] = ("modernbert",)

    def __init__(self, *, pooling: SentencePooling = SentencePooling.CONFIG) -> None:
        self.pooling = pooling

    def read(self, snapshot: Snapshot) -> Foreign:
        return masked.read(FAMILY, snapshot, self.pooling)

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        masked.write(FAMILY, loaded, folder)
