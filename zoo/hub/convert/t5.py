"""T5 (Raffel et al., 2020, https://arxiv.org/abs/1910.10683) as transformers writes it: T5ForConditionalGeneration, in its first shape and in that of
version 1.1, whose networks have gates. https://huggingface.co/docs/transformers/model_doc/t5
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zoo.data.codecs.written import Start
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign
from zoo.hub.convert.names import One, Rule, blocks, interleaved, layer, read_all, stacked, write_all
from zoo.hub.convert.seq2seq import codecs_of, one_table, parts_of, processor_of, refuse_others, write_folder
from zoo.hub.convert.snapshot import Snapshot, wanted
from zoo.hub.convert.tokenizer import tokenizer_of
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu", "gelu_new": "gelu_tanh", "gated-gelu": "geglu_tanh", "gated-silu": "swiglu"}
"""By what follows ``feed_forward_proj``; transformers reads ``gated-gelu`` as gated-gelu_new."""
GATED = ("swiglu", "geglu", "geglu_tanh")
PLAIN = {
    "positions": "relative",
    "placement": "pre",
    "norm": "rms",
    "biases": "none",
    "scores": "plain",
    "kv_heads": 0,
    "embedding_norm": "auto",
    "embedding_scale": "none",
    "attention_dropout": None,
}
LENGTH = 512
"""Tokens of a text where the checkpoint says nothing: relative positions have no limit, and it was trained with these."""


@CONVERTERS.register("t5")
class T5Converter:
    """T5 in the layout of transformers: a text in, a text out."""

    model_types: ClassVar[tuple[str, ...]] = ("t5",)

    def read(self, snapshot: Snapshot) -> Foreign:
        config, name = snapshot.config, snapshot.name
        tensors, tied = one_table(snapshot.tensors, "", name)
        encoder, decoder = nodes_of(config, name)
        tokenizer = tokenizer_of(snapshot)
        encoder["extra_rows"] = config["vocab_size"] - tokenizer.vocab_size
        if not tied:
            tensors["lm_head.weight"] = tensors["lm_head.weight"][: tokenizer.vocab_size]
        told = snapshot.optional("tokenizer_config.json").get("model_max_length")
        length = int(told) if isinstance(told, int | float) and 3 <= told < 1e6 else int(config.get("n_positions") or LENGTH)
        scaled = config.get("tie_word_embeddings", True) is not False
        state, report = read_all(rules(encoder, decoder, tied=tied), tensors, unused={}, where=name)
        return Foreign(
            processor=processor_of(snapshot, tokenizer, length, Start.PAD),
            model={
                "encoder": encoder,
                "decoder": decoder,
                "head": {"name": "next_token", "output": "tied" if tied else "own", "output_scale": "inverse_sqrt" if scaled else "none"},
            },
            state={key: value.to(torch.float32) for key, value in state.items()},
            report=report,
        )

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        encoder, decoder, head = parts_of(loaded, "T5")
        refuse_others(
            "T5",
            encoder,
            decoder,
            PLAIN | {"attention_dropout": encoder["dropout"]},
            {"window": 0, "segments": 0, "pooler": "none", "attention": "bidirectional"},
        )
        text, _ = codecs_of(loaded, "T5", Start.PAD)
        tied = head["output"] == "tied"
        state = dict(loaded.model.state_dict())
        tensors = write_all(rules(encoder, decoder, tied=tied), state)
        rows = tensors["shared.weight"].shape[0]
        if not tied and tensors["lm_head.weight"].shape[0] < rows:  # rows of entries that the tokenizer has not
            tensors["lm_head.weight"] = torch.cat(
                [tensors["lm_head.weight"], tensors["lm_head.weight"].new_zeros(rows - len(tensors["lm_head.weight"]), encoder["dim"])]
            )
        dim = encoder["dim"]
        config = {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "vocab_size": rows,
            "d_model": dim,
            "d_kv": encoder["head_dim"] or dim // encoder["heads"],
            "d_ff": encoder["hidden"] or round(encoder["mlp_ratio"] * dim),
            "num_layers": encoder["depth"],
            "num_decoder_layers": decoder["depth"],
            "num_heads": encoder["heads"],
            "relative_attention_num_buckets": encoder["relative_buckets"],
            "relative_attention_max_distance": encoder["relative_distance"],
            "dropout_rate": encoder["dropout"],
            "layer_norm_epsilon": encoder["norm_eps"],
            "feed_forward_proj": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == encoder["activation"]),
            "tie_word_embeddings": head["output_scale"] == "inverse_sqrt",
            "is_encoder_decoder": True,
            "pad_token_id": text.tokenizer.pad_id,
            "eos_token_id": text.tokenizer.end_id,
            "decoder_start_token_id": text.tokenizer.pad_id,
            "dtype": "float32",
        }
        write_folder(folder, config, tensors, text.tokenizer, text.max_length)  # type: ignore[arg-type]


def nodes_of(config: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """zoo's encoder and decoder for a T5.

    Raises:
        CheckpointError: for what its config lacks, and for variants whose numbers would be others.
    """
    dim, width, hidden, depth, heads, _ = wanted(config, name, d_model=int, d_kv=int, d_ff=int, num_layers=int, num_heads=int, vocab_size=int)
    (eps,) = wanted({"layer_norm_epsilon": 1e-6} | config, name, layer_norm_epsilon=float)
    act = config.get("feed_forward_proj", "relu")
    if act not in ACTIVATIONS:
        raise CheckpointError(f"{name}: config.json: feed_forward_proj={act!r}: a variant of T5 that zoo does not have; its numbers would be others")
    dropout = float(config.get("dropout_rate", 0.1))
    shared = {
        "name": "transformer",
        "dim": dim,
        "heads": heads,
        "head_dim": width,
        "hidden": hidden,
        "activation": ACTIVATIONS[act],
        "norm_eps": eps,
        "dropout": dropout,
        "relative_buckets": int(config.get("relative_attention_num_buckets", 32)),
        "relative_distance": int(config.get("relative_attention_max_distance", 128)),
        **PLAIN,
        "attention_dropout": dropout,
    }
    decoder_depth = config.get("num_decoder_layers")
    return shared | {"depth": depth}, shared | {"depth": depth if decoder_depth is None else int(decoder_depth), "embedding": "tied"}


def rules(encoder: dict[str, Any], decoder: dict[str, Any], *, tied: bool) -> list[Rule]:
    """Names of zoo's tensors and T5's."""
    found: list[Rule] = [One("encoder.embedding.weight", "shared.weight")]
    for part, node in (("encoder", encoder), ("decoder", decoder)):
        theirs, ours = f"{part}.block.{{n}}.layer", f"{part}.blocks.{{n}}"
        heads, last = node["heads"], 2 if part == "decoder" else 1
        hidden = node["hidden"] or round(node["mlp_ratio"] * node["dim"])
        block: list[Rule] = [
            *stacked(f"{ours}.attention.qkv", [f"{theirs}.0.SelfAttention.{letter}" for letter in "qkv"], heads, "weight"),
            *layer(f"{ours}.attention.proj", f"{theirs}.0.SelfAttention.o", "weight"),
            *layer(f"{ours}.norm1", f"{theirs}.0.layer_norm", "weight"),
            *layer(f"{ours}.mlp.fc2", f"{theirs}.{last}.DenseReluDense.wo", "weight"),
            *layer(f"{ours}.norm2", f"{theirs}.{last}.layer_norm", "weight"),
        ]
        wide = f"{theirs}.{last}.DenseReluDense.wi"
        block += (
            interleaved(f"{ours}.mlp.fc1", [f"{wide}_0", f"{wide}_1"], hidden, "weight")
            if node["activation"] in GATED
            else layer(f"{ours}.mlp.fc1", wide, "weight")
        )
        if part == "decoder":
            block += [
                *layer(f"{ours}.cross.query", f"{theirs}.1.EncDecAttention.q", "weight"),
                *interleaved(f"{ours}.cross.kv", [f"{theirs}.1.EncDecAttention.{letter}" for letter in "kv"], heads, "weight"),
                *layer(f"{ours}.cross.proj", f"{theirs}.1.EncDecAttention.o", "weight"),
                *layer(f"{ours}.norm_cross", f"{theirs}.1.layer_norm", "weight"),
            ]
        found += [
            One(f"{part}.relative.weight", f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            *blocks(node["depth"], block),
            *layer(f"{part}.norm", f"{part}.final_layer_norm", "weight"),
        ]
    return found if tied else [*found, One("head.output.weight", "lm_head.weight")]
