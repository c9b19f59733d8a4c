"""BART (Lewis et al., 2020, https://arxiv.org/abs/1910.13461) as transformers writes it: BartForConditionalGeneration.
https://huggingface.co/docs/transformers/model_doc/bart
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoo.data.codecs.written import Start
from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign, no_place
from zoo.hub.convert.names import One, Rule, blocks, interleaved, layer, read_all, stacked, write_all
from zoo.hub.convert.seq2seq import codecs_of, one_table, parts_of, processor_of, refuse_others, write_folder
from zoo.hub.convert.snapshot import Snapshot, wanted
from zoo.hub.convert.tokenizer import tokenizer_of
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "gelu_new": "gelu_tanh"}
UNUSED_POSITIONS = 2
"""Rows before the first of its tables of positions, which nothing reads."""
PLAIN = {
    "positions": "learned",
    "placement": "post",
    "norm": "layer",
    "biases": "all",
    "scores": "scaled",
    "kv_heads": 0,
    "head_dim": 0,
    "embedding_norm": "auto",
}
EPS = 1e-5
"""torch's own, which its layer norms are built with."""


@CONVERTERS.register("bart")
class BartConverter:
    """BART in the layout of transformers: a text in, a text out."""

    model_types: ClassVar[tuple[str, ...]] = ("bart",)

    def read(self, snapshot: Snapshot) -> Foreign:
        config, name = snapshot.config, snapshot.name
        tensors, tied = one_table(snapshot.tensors, "model.", name)
        encoder, decoder = nodes_of(config, name)
        tokenizer = tokenizer_of(snapshot)
        start = config.get("decoder_start_token_id", config.get("eos_token_id"))
        if start != tokenizer.end_id:
            raise CheckpointError(
                f"{name}: config.json: decoder_start_token_id is {start}, where the token that closes a text, {tokenizer.end_id}, is needed; a variant of BART "
                "that zoo does not have (mBART begins with a language)"
            )
        entries = tokenizer.vocab_size
        encoder["extra_rows"] = config["vocab_size"] - entries
        tensors = {key: value[UNUSED_POSITIONS:] if key.endswith("embed_positions.weight") else value for key, value in tensors.items()}
        if "final_logits_bias" in tensors:
            tensors["final_logits_bias"] = tensors["final_logits_bias"].reshape(-1)[:entries]
        biased = "final_logits_bias" in tensors and bool(tensors["final_logits_bias"].any())
        if not tied:
            tensors["lm_head.weight"] = tensors["lm_head.weight"][:entries]
        unused = {} if biased else {"final_logits_bias": "zero for every token"}
        state, report = read_all(rules(encoder, decoder, tied=tied, biased=biased), tensors, unused=unused, where=name)
        return Foreign(
            processor=processor_of(snapshot, tokenizer, config["max_position_embeddings"], Start.END),
            model={
                "encoder": encoder,
                "decoder": decoder,
                "head": {"name": "next_token", "output": "tied" if tied else "own", "output_bias": "with" if biased else "none"},
            },
            state={key: value.to(torch.float32) for key, value in state.items()},
            report=report,
        )

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        encoder, decoder, head = parts_of(loaded, "BART")
        refuse_others("BART", encoder, decoder, PLAIN, {"window": 0, "segments": 0, "pooler": "none", "attention": "bidirectional", "norm_eps": EPS})
        if decoder["embedding_scale"] != encoder["embedding_scale"]:
            told = f"model.decoder.embedding_scale is {decoder['embedding_scale']}, where the encoder's {encoder['embedding_scale']} is needed"
            raise no_place("BART", [told], [f"model.decoder.embedding_scale={encoder['embedding_scale']}"])
        if head["output_scale"] != "none":
            raise no_place("BART", [f"model.head.output_scale is {head['output_scale']}, where none is needed"], ["model.head.output_scale=none"])
        text, written = codecs_of(loaded, "BART", Start.END)
        tied, biased = head["output"] == "tied", head["output_bias"] == "with"
        state = dict(loaded.model.state_dict())
        tensors = write_all(rules(encoder, decoder, tied=tied, biased=biased), state)
        rows, dim = tensors["model.shared.weight"].shape
        for part in ("encoder", "decoder"):
            positions = tensors[f"model.{part}.embed_positions.weight"]
            tensors[f"model.{part}.embed_positions.weight"] = torch.cat([positions.new_zeros(UNUSED_POSITIONS, dim), positions])
        tensors["final_logits_bias"] = filled(tensors["final_logits_bias"], rows)[None] if biased else torch.zeros(1, rows)
        if not tied:
            tensors["lm_head.weight"] = filled(tensors["lm_head.weight"], rows)
        lengths = [len(state[f"{part}.positions.weight"]) for part in ("encoder", "decoder")]
        if lengths[0] != lengths[1]:
            told = f"the encoder has {lengths[0]} positions and the decoder {lengths[1]}, where as many are needed"
            raise no_place("BART", [told], [f"data.target_max_length={lengths[0]}"])
        config = {
            "architectures": ["BartForConditionalGeneration"],
            "model_type": "bart",
            "vocab_size": rows,
            "d_model": dim,
            "max_position_embeddings": lengths[0],
            **{
                f"{part}_{theirs}": value
                for part, node in (("encoder", encoder), ("decoder", decoder))
                for theirs, value in (
                    ("layers", node["depth"]),
                    ("attention_heads", node["heads"]),
                    ("ffn_dim", node["hidden"] or round(node["mlp_ratio"] * dim)),
                )
            },
            "activation_function": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == encoder["activation"]),
            "dropout": encoder["dropout"],
            "attention_dropout": encoder["attention_dropout"],
            "activation_dropout": encoder["dropout"],
            "scale_embedding": encoder["embedding_scale"] == "sqrt",
            "tie_word_embeddings": tied,
            "is_encoder_decoder": True,
            "pad_token_id": text.tokenizer.pad_id,
            "bos_token_id": text.tokenizer.begin_id,
            "eos_token_id": text.tokenizer.end_id,
            "decoder_start_token_id": written.tokenizer.end_id,
            "forced_eos_token_id": text.tokenizer.end_id,
            "dtype": "float32",
        }
        write_folder(folder, config, tensors, text.tokenizer, text.max_length)  # type: ignore[arg-type]


def filled(values: Tensor, rows: int) -> Tensor:
    """Zeros for entries that the tokenizer has not."""
    return torch.cat([values, values.new_zeros(rows - values.shape[0], *values.shape[1:])])


def nodes_of(config: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """zoo's encoder and decoder for a BART.

    Raises:
        CheckpointError: for what its config lacks, and for variants whose numbers would be others.
    """
    dim, positions, _ = wanted(config, name, d_model=int, max_position_embeddings=int, vocab_size=int)
    act = config.get("activation_function", "gelu")
    refused = {
        f"activation_function={act!r}": act not in ACTIVATIONS,
        "normalize_before=true": bool(config.get("normalize_before")),
        "static_position_embeddings=true": bool(config.get("static_position_embeddings")),
        "normalize_embedding=false": config.get("normalize_embedding", True) is False,
        "add_final_layer_norm=true": bool(config.get("add_final_layer_norm")),
    }
    if found := [what for what, wrong in refused.items() if wrong]:
        raise CheckpointError(f"{name}: config.json: {found[0]}: a variant of BART that zoo does not have; its numbers would be others")
    nodes = []
    for part in ("encoder", "decoder"):
        depth, heads, hidden = wanted(config, name, **{f"{part}_layers": int, f"{part}_attention_heads": int, f"{part}_ffn_dim": int})
        nodes.append(
            {
                "name": "transformer",
                "dim": dim,
                "depth": depth,
                "heads": heads,
                "hidden": hidden,
                "activation": ACTIVATIONS[act],
                "max_positions": positions,
                "norm_eps": EPS,
                "dropout": float(config.get("dropout", 0.1)),
                "attention_dropout": float(config.get("attention_dropout", 0.0)),
                "embedding_scale": "sqrt" if config.get("scale_embedding") else "none",
                **PLAIN,
            }
        )
    return nodes[0], nodes[1] | {"embedding": "tied"}


def rules(encoder: dict[str, Any], decoder: dict[str, Any], *, tied: bool, biased: bool) -> list[Rule]:
    """Names of zoo's tensors and BART's."""
    found: list[Rule] = [One("encoder.embedding.weight", "model.shared.weight")]
    for part, node in (("encoder", encoder), ("decoder", decoder)):
        theirs, ours = f"model.{part}.layers.{{n}}", f"{part}.blocks.{{n}}"
        block: list[Rule] = [
            *stacked(f"{ours}.attention.qkv", [f"{theirs}.self_attn.{letter}_proj" for letter in "qkv"], node["heads"]),
            *layer(f"{ours}.attention.proj", f"{theirs}.self_attn.out_proj"),
            *layer(f"{ours}.norm1", f"{theirs}.self_attn_layer_norm"),
            *layer(f"{ours}.mlp.fc1", f"{theirs}.fc1"),
            *layer(f"{ours}.mlp.fc2", f"{theirs}.fc2"),
            *layer(f"{ours}.norm2", f"{theirs}.final_layer_norm"),
        ]
        if part == "decoder":
            block += [
                *layer(f"{ours}.cross.query", f"{theirs}.encoder_attn.q_proj"),
                *interleaved(f"{ours}.cross.kv", [f"{theirs}.encoder_attn.{letter}_proj" for letter in "kv"], node["heads"]),
                *layer(f"{ours}.cross.proj", f"{theirs}.encoder_attn.out_proj"),
                *layer(f"{ours}.norm_cross", f"{theirs}.encoder_attn_layer_norm"),
            ]
        found += [
            One(f"{part}.positions.weight", f"model.{part}.embed_positions.weight"),
            *layer(f"{part}.embedding_norm", f"model.{part}.layernorm_embedding"),
            *blocks(node["depth"], block),
        ]
    found += [One("head.output.bias", "final_logits_bias")] if biased else []
    return found if tied else [*found, One("head.output.weight", "lm_head.weight")]
