"""GPT-2 (Radford et al., 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf) as transformers
writes it: GPT2LMHeadModel and GPT2Model. https://huggingface.co/docs/transformers/model_doc/gpt2
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign, no_place, other_options
from zoo.hub.convert.causal import filled, parts_of, processor_of, special_ids, tied, write_folder
from zoo.hub.convert.names import One, Rule, blocks, layer, read_all, write_all
from zoo.hub.convert.snapshot import Snapshot, wanted
from zoo.hub.convert.tokenizer import tokenizer_of
from zoo.layers.attention import split_heads, stack_heads
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}
END = "<|endoftext|>"
PLAIN = {
    "attention": "causal",
    "positions": "learned",
    "placement": "pre",
    "norm": "layer",
    "biases": "all",
    "kv_heads": 0,
    "head_dim": 0,
    "window": 0,
    "segments": 0,
    "embedding_norm": "auto",
    "embedding_scale": "none",
}
BUFFERS = (".attn.bias", ".attn.masked_bias")
"""Masks that old checkpoints hold."""


@CONVERTERS.register("gpt2")
class Gpt2Converter:
    """GPT-2 in the layout of transformers: a causal language model."""

    model_types: ClassVar[tuple[str, ...]] = ("gpt2",)

    def read(self, snapshot: Snapshot) -> Foreign:
        config, name = snapshot.config, snapshot.name
        tensors = {key.removeprefix("transformer."): value for key, value in snapshot.tensors.items() if not key.endswith(BUFFERS)}
        if "wte.weight" not in tensors:
            raise CheckpointError(f"{name}: has no wte.weight, the table of embeddings")
        encoder = encoder_node(config, name)
        tokenizer = tokenizer_of(snapshot, END)
        encoder["extra_rows"] = config["vocab_size"] - tokenizer.vocab_size
        shared = tied(tensors, "wte.weight", config, default=True)
        scores = tensors.pop("lm_head.weight", None)
        if not shared and scores is not None:
            tensors["lm_head.weight"] = scores[: tokenizer.vocab_size]
        state, report = read_all(rules(encoder, tied=shared), tensors, unused={}, where=name)
        return Foreign(
            processor=processor_of(snapshot, tokenizer, encoder["max_positions"]),
            model={"encoder": encoder, "head": {"name": "next_token", "output": "tied" if shared else "own"}},
            state={key: value.to(torch.float32) for key, value in state.items()},
            report=report,
        )

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        encoder, head, codec = parts_of(loaded, "GPT-2")
        wrong, overrides = other_options(encoder, PLAIN)
        if encoder["activation"] not in ACTIVATIONS.values():
            wrong.append(f"model.encoder.activation is {encoder['activation']}, where one of {', '.join(sorted(set(ACTIVATIONS.values())))} is needed")
            overrides.append("model.encoder.activation=gelu_tanh")
        if wrong:
            raise no_place("GPT-2", wrong, overrides)
        shared = head["output"] == "tied"
        tensors = write_all(rules(encoder, tied=shared), dict(loaded.model.state_dict()))
        rows, dim = tensors["wte.weight"].shape
        tensors = {key if key.startswith("lm_head") else f"transformer.{key}": value for key, value in filled(tensors, rows).items()}
        config = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": rows,
            "n_embd": dim,
            "n_layer": encoder["depth"],
            "n_head": encoder["heads"],
            "n_inner": encoder["hidden"] or round(encoder["mlp_ratio"] * dim),
            "n_positions": tensors["transformer.wpe.weight"].shape[0],
            "activation_function": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == encoder["activation"]),
            "layer_norm_epsilon": encoder["norm_eps"],
            "resid_pdrop": encoder["dropout"],
            "embd_pdrop": encoder["dropout"],
            "attn_pdrop": encoder["attention_dropout"],
            "scale_attn_weights": encoder["scores"] == "scaled",
            "tie_word_embeddings": shared,
            "dtype": "float32",
        } | special_ids(codec.tokenizer)  # type: ignore[arg-type]
        write_folder(folder, config, tensors, codec)


def encoder_node(config: dict[str, Any], name: str) -> dict[str, Any]:
    """zoo's encoder for a GPT-2.

    Raises:
        CheckpointError: for what its config lacks, and for variants whose numbers would be others.
    """
    dim, depth, heads, positions, _ = wanted(config, name, n_embd=int, n_layer=int, n_head=int, n_positions=int, vocab_size=int)
    (eps,) = wanted({"layer_norm_epsilon": 1e-5} | config, name, layer_norm_epsilon=float)
    act, inner = config.get("activation_function", "gelu_new"), config.get("n_inner")
    refused = {
        f"activation_function={act!r}": act not in ACTIVATIONS,
        "scale_attn_by_inverse_layer_idx=true": bool(config.get("scale_attn_by_inverse_layer_idx")),
        "add_cross_attention=true": bool(config.get("add_cross_attention")),
    }
    if found := [what for what, wrong in refused.items() if wrong]:
        raise CheckpointError(f"{name}: config.json: {found[0]}: a variant of GPT-2 that zoo does not have; its numbers would be others")
    return PLAIN | {
        "name": "transformer",
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "hidden": 4 * dim if inner is None else int(inner),
        "max_positions": positions,
        "activation": ACTIVATIONS[act],
        "norm_eps": eps,
        "dropout": float(config.get("resid_pdrop", 0.1)),
        "attention_dropout": float(config.get("attn_pdrop", 0.1)),
        "scores": "scaled" if config.get("scale_attn_weights", True) else "plain",
    }


def rules(encoder: dict[str, Any], *, tied: bool) -> list[Rule]:
    """Names of zoo's tensors and GPT-2's, whose linear layers hold their matrices the other way round."""
    heads = encoder["heads"]

    def turned(our: str, their: str) -> list[Rule]:
        return [One(f"{our}.weight", f"{their}.weight", turn, turn), One(f"{our}.bias", f"{their}.bias")]

    def stack(stacked: Tensor) -> Tensor:
        query, key, value = stacked.chunk(3)
        return stack_heads(query, key, value, heads)

    def split(ours: Tensor) -> Tensor:
        return torch.cat(split_heads(ours, heads))

    theirs, ours = "h.{n}", "encoder.blocks.{n}"
    block: list[Rule] = [
        *layer(f"{ours}.norm1", f"{theirs}.ln_1"),
        One(f"{ours}.attention.qkv.weight", f"{theirs}.attn.c_attn.weight", lambda weight: stack(weight.T), lambda weight: turn(split(weight))),
        One(f"{ours}.attention.qkv.bias", f"{theirs}.attn.c_attn.bias", stack, split),
        *turned(f"{ours}.attention.proj", f"{theirs}.attn.c_proj"),
        *layer(f"{ours}.norm2", f"{theirs}.ln_2"),
        *turned(f"{ours}.mlp.fc1", f"{theirs}.mlp.c_fc"),
        *turned(f"{ours}.mlp.fc2", f"{theirs}.mlp.c_proj"),
    ]
    found: list[Rule] = [
        One("encoder.embedding.weight", "wte.weight"),
        One("encoder.positions.weight", "wpe.weight"),
        *blocks(encoder["depth"], block),
        *layer("encoder.norm", "ln_f"),
    ]
    return found if tied else [*found, One("head.output.weight", "lm_head.weight")]


def turn(weight: Tensor) -> Tensor:
    return weight.T.contiguous()
