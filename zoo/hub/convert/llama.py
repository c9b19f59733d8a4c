"""Llama (Touvron et al., 2023, https://arxiv.org/abs/2302.13971; Llama Team, 2024, https://arxiv.org/abs/2407.21783) as transformers writes it, and models
of its shape: Qwen 2, which has biases of queries, keys and values (Yang et al., 2024, https://arxiv.org/abs/2407.10671), and Mistral, which sees a window
(Jiang et al., 2023, https://arxiv.org/abs/2310.06825). https://huggingface.co/docs/transformers/model_doc/llama
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from zoo.errors import CheckpointError
from zoo.hub.convert.base import Foreign, no_place, other_options
from zoo.hub.convert.causal import filled, parts_of, processor_of, special_ids, tied, write_folder
from zoo.hub.convert.names import One, Rule, blocks, interleaved, layer, read_all, stacked, write_all
from zoo.hub.convert.snapshot import Snapshot, wanted
from zoo.hub.convert.tokenizer import tokenizer_of
from zoo.registry import CONVERTERS

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

PLAIN = {
    "attention": "causal",
    "positions": "rotary",
    "placement": "pre",
    "norm": "rms",
    "activation": "swiglu",
    "scores": "scaled",
    "segments": 0,
    "global_every": 0,
    "local_period": 0.0,
    "embedding_norm": "auto",
    "embedding_scale": "none",
}
BOUNDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Of Llama 3's slow and fast rotary pairs, the same in all that were published."""


@CONVERTERS.register("llama")
class LlamaConverter:
    """Llama, Qwen 2 and Mistral in the layout of transformers: causal language models."""

    model_types: ClassVar[tuple[str, ...]] = ("llama", "qwen2", "mistral")

    def read(self, snapshot: Snapshot) -> Foreign:
        config, name = snapshot.config, snapshot.name
        tensors = {key: value for key, value in snapshot.tensors.items() if not key.endswith("rotary_emb.inv_freq")}
        if "model.embed_tokens.weight" not in tensors:
            raise CheckpointError(f"{name}: has no model.embed_tokens.weight, the table of embeddings")
        encoder = encoder_node(config, name)
        tokenizer = tokenizer_of(snapshot, closing(snapshot))
        encoder["extra_rows"] = config["vocab_size"] - tokenizer.vocab_size
        shared = tied(tensors, "model.embed_tokens.weight", config, default=False)
        scores = tensors.pop("lm_head.weight", None)
        if not shared and scores is not None:
            tensors["lm_head.weight"] = scores[: tokenizer.vocab_size]
        state, report = read_all(rules(encoder, tied=shared), tensors, unused={}, where=name)
        (positions,) = wanted(config, name, max_position_embeddings=int)
        return Foreign(
            processor=processor_of(snapshot, tokenizer, positions),
            model={"encoder": encoder, "head": {"name": "next_token", "output": "tied" if shared else "own"}},
            state={key: value.to(torch.float32) for key, value in state.items()},
            report=report,
        )

    def write(self, loaded: "LoadedBundle", folder: Path) -> None:
        encoder, head, codec = parts_of(loaded, "Llama")
        wrong, overrides = other_options(encoder, PLAIN)
        if encoder["biases"] == "all":
            wrong.append("model.encoder.biases is all, where none (Llama, Mistral) or qkv (Qwen 2) is needed")
            overrides.append("model.encoder.biases=none")
        if encoder["biases"] == "qkv" and encoder["window"]:
            wrong.append(f"model.encoder.window is {encoder['window']}, where 0 is needed: with biases=qkv it is a Qwen 2")
            overrides.append("model.encoder.window=0")
        if wrong:
            raise no_place("Llama", wrong, overrides)
        shared = head["output"] == "tied"
        tensors = write_all(rules(encoder, tied=shared), dict(loaded.model.state_dict()))
        rows, dim = tensors["model.embed_tokens.weight"].shape
        kind = "qwen2" if encoder["biases"] == "qkv" else "mistral" if encoder["window"] else "llama"
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": encoder["rotary_period"]}
        if encoder["rotary_stretch"] != 1:
            rope |= {"rope_type": "llama3", "factor": encoder["rotary_stretch"], "original_max_position_embeddings": encoder["rotary_trained"], **BOUNDS}
        config = {
            "architectures": [{"qwen2": "Qwen2ForCausalLM", "mistral": "MistralForCausalLM", "llama": "LlamaForCausalLM"}[kind]],
            "model_type": kind,
            "vocab_size": rows,
            "hidden_size": dim,
            "intermediate_size": encoder["hidden"] or round(encoder["mlp_ratio"] * dim),
            "num_hidden_layers": encoder["depth"],
            "num_attention_heads": encoder["heads"],
            "num_key_value_heads": encoder["kv_heads"] or encoder["heads"],
            "head_dim": encoder["head_dim"] or dim // encoder["heads"],
            "hidden_act": "silu",
            "max_position_embeddings": codec.max_length,
            "rms_norm_eps": encoder["norm_eps"],
            "rope_parameters": rope,
            "rope_theta": encoder["rotary_period"],
            "attention_dropout": encoder["attention_dropout"],
            "tie_word_embeddings": shared,
            "dtype": "float32",
        } | special_ids(codec.tokenizer)  # type: ignore[arg-type]
        if kind == "mistral":
            config["sliding_window"] = encoder["window"] + 1
        write_folder(folder, config, filled(tensors, rows), codec)


def closing(snapshot: Snapshot) -> str:
    """The token that its tokenizer's config says to close texts."""
    told = snapshot.optional("tokenizer_config.json").get("eos_token")
    token = told.get("content") if isinstance(told, dict) else told
    if not isinstance(token, str):
        raise CheckpointError(f"{snapshot.name}: tokenizer_config.json: eos_token is {told!r}, where the token that closes a text is needed")
    return token


def encoder_node(config: dict[str, Any], name: str) -> dict[str, Any]:
    """zoo's encoder for a Llama.

    Raises:
        CheckpointError: for what its config lacks, and for variants whose numbers would be others.
    """
    dim, hidden, depth, heads, _ = wanted(config, name, hidden_size=int, intermediate_size=int, num_hidden_layers=int, num_attention_heads=int, vocab_size=int)
    (eps,) = wanted({"rms_norm_eps": 1e-6} | config, name, rms_norm_eps=float)
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10_000.0)} | (config.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    biased = config["model_type"] == "qwen2"
    refused = {
        f"hidden_act={config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "attention_bias=true": bool(config.get("attention_bias")),
        "mlp_bias=true": bool(config.get("mlp_bias")),
        "use_sliding_window=true": bool(config.get("use_sliding_window")),
        f"rope_type={kind!r}": kind not in ("default", "llama3"),
        **{f"rope_parameters.{key}={rope.get(key)}": kind == "llama3" and rope.get(key, bound) != bound for key, bound in BOUNDS.items()},
    }
    if found := [what for what, wrong in refused.items() if wrong]:
        raise CheckpointError(f"{name}: config.json: {found[0]}: a variant of Llama that zoo does not have; its numbers would be others")
    window = config.get("sliding_window") if config["model_type"] == "mistral" else None
    node = PLAIN | {
        "name": "transformer",
        "dim": dim,
        "depth": depth,
        "heads": heads,
        "kv_heads": int(config.get("num_key_value_heads") or heads),
        "head_dim": int(config.get("head_dim") or dim // heads),
        "hidden": hidden,
        "norm_eps": eps,
        "biases": "qkv" if biased else "none",
        "window": 0 if window is None else int(window) - 1,  # zoo's counts the positions besides the own
        "rotary_period": float(rope.get("rope_theta", 10_000.0)),
        "dropout": 0.0,
        "attention_dropout": float(config.get("attention_dropout", 0.0)),
    }
    if kind == "llama3":
        node |= {"rotary_stretch": float(rope["factor"]), "rotary_trained": int(rope["original_max_position_embeddings"])}
    return node


def rules(encoder: dict[str, Any], *, tied: bool) -> list[Rule]:
    """Names of zoo's tensors and Llama's."""
    theirs, ours = "model.layers.{n}", "encoder.blocks.{n}"
    groups = encoder["kv_heads"] or encoder["heads"]
    kinds = ("weight", "bias") if encoder["biases"] == "qkv" else ("weight",)
    hidden = encoder["hidden"] or round(encoder["mlp_ratio"] * encoder["dim"])
    queries = [f"{theirs}.self_attn.{letter}_proj" for letter in "qkv"]
    block: list[Rule] = [
        *layer(f"{ours}.norm1", f"{theirs}.input_layernorm", "weight"),
        *stacked(f"{ours}.attention.qkv", queries, groups, *kinds, shared=encoder["heads"] // groups),
        *layer(f"{ours}.attention.proj", f"{theirs}.self_attn.o_proj", "weight"),
        *layer(f"{ours}.norm2", f"{theirs}.post_attention_layernorm", "weight"),
        *interleaved(f"{ours}.mlp.fc1", [f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj"], hidden, "weight"),
        *layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.down_proj", "weight"),
    ]
    found: list[Rule] = [
        One("encoder.embedding.weight", "model.embed_tokens.weight"),
        *blocks(encoder["depth"], block),
        *layer("encoder.norm", "model.norm", "weight"),
    ]
    return found if tied else [*found, One("head.output.weight", "lm_head.weight")]
