"""T5 and BART with random weights as transformers saved them: hidden states, scores, loss and gradients are transformers', and they go back.

The tokenizer is one that the test trains on a few words; texts and models are synthetic, sizes are odd on purpose.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_converters import bundled, randomise
from torch.nn import functional as F

from zoo.errors import CheckpointError
from zoo.hub.bundle import LoadedBundle
from zoo.hub.convert import bart, t5
from zoo.hub.convert.names import write_all
from zoo.structs import Values

TEXTS = ["the cat sat on a mat", "one big dog ran", "green hills and a mat", "dog"] * 3
ANSWERS = ["a mat", "the big green dog ran on", "cat", "one"]
BOUND = 1e-5

T5S: dict[str, dict[str, Any]] = {
    "first": {"d_model": 24, "d_kv": 7, "num_heads": 3, "d_ff": 50, "num_layers": 2, "num_decoder_layers": 3, "relative_attention_num_buckets": 8},
    "1.1, own output": {"d_model": 20, "d_kv": 4, "num_heads": 5, "d_ff": 33, "num_layers": 1, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "distances": {"d_model": 12, "d_kv": 6, "num_heads": 2, "d_ff": 17, "num_layers": 3, "relative_attention_max_distance": 20, "feed_forward_proj": "gelu"},
}
BARTS: dict[str, dict[str, Any]] = {
    "plain": {"d_model": 24, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 50, "decoder_ffn_dim": 41, "encoder_attention_heads": 3},
    "scaled, biased": {"d_model": 20, "encoder_layers": 1, "decoder_layers": 3, "decoder_attention_heads": 5, "scale_embedding": True, "extra": 3},
    "relu": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "activation_function": "relu"},
}


def close(found: torch.Tensor, reference: torch.Tensor) -> None:
    assert found.shape == reference.shape
    assert float((found - reference).detach().abs().max()) <= BOUND


def tokenizer_file(folder: Path, opening: str) -> Any:
    """A byte-level BPE with <s>, <pad>, </s>, as RoBERTa's and BART's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(TEXTS + ANSWERS, trainers.BpeTrainer(vocab_size=60, special_tokens=["<s>", "<pad>", "</s>"], show_progress=False))
    library.post_processor = processors.TemplateProcessing(single=f"{opening} $A </s>".strip(), special_tokens=[("<s>", 0), ("</s>", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=library, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
    fast.save_pretrained(folder)
    return fast


def saved_t5(folder: Path, sizes: dict[str, Any], extra: int = 2) -> tuple[Any, Any]:
    from transformers import T5Config, T5ForConditionalGeneration

    fast = tokenizer_file(folder, "")
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = T5Config(vocab_size=len(fast) + extra, **sizes, **ids)
    model: Any = randomise(T5ForConditionalGeneration(config))
    model.save_pretrained(folder)
    if sizes.get("tie_word_embeddings") is False:  # what 1.1's published files say, and transformers 5 does not write
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(told | {"tie_word_embeddings": False}))
    return model, fast


def saved_bart(folder: Path, sizes: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import BartConfig, BartForConditionalGeneration

    fast = tokenizer_file(folder, "<s>")
    widths = {"encoder_ffn_dim": 30, "decoder_ffn_dim": 30, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths |= {key: value for key, value in sizes.items() if key != "extra"}
    if "encoder_attention_heads" in sizes:
        widths["decoder_attention_heads"] = sizes["encoder_attention_heads"]
    if "decoder_attention_heads" in sizes:
        widths["encoder_attention_heads"] = sizes["decoder_attention_heads"]
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None}
    model: Any = randomise(BartForConditionalGeneration(BartConfig(vocab_size=len(fast) + sizes.get("extra", 0), max_position_embeddings=40, **widths, **ids)))
    if "extra" in sizes:
        model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape))
    model.save_pretrained(folder)
    return model, fast


def batches(loaded: LoadedBundle, fast: Any) -> tuple[dict[str, Values], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same texts as zoo prepares them and as transformers' tokenizer does."""
    raw = [{"text": text, "written": answer, "next": answer} for text, answer in zip(TEXTS, ANSWERS, strict=False)]
    batch = loaded.processor.batch(raw, with_targets=True)
    source, target = fast(TEXTS[: len(raw)], return_tensors="pt", padding=True), fast(ANSWERS, return_tensors="pt", padding=True)
    labels = target.input_ids.masked_fill(target.attention_mask == 0, -100)
    return batch.inputs, batch.targets, {"input_ids": source.input_ids, "attention_mask": source.attention_mask, "labels": labels}


def compare(loaded: LoadedBundle, reference: Any, fast: Any, rules: list[Any]) -> None:
    model: Any = loaded.model.train()
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    inputs, targets, theirs_in = batches(loaded, fast)
    assert torch.equal(inputs["text"].values, theirs_in["input_ids"])
    assert torch.equal(targets["next"], theirs_in["labels"].masked_fill(theirs_in["labels"] == -100, -1))
    theirs = reference(**theirs_in, output_hidden_states=True)
    features = model.encode(inputs)
    mask, written = inputs["text"].mask, inputs["written"].mask
    close(features.tokens[mask], theirs.encoder_last_hidden_state[mask])
    decoded = model.decode(features, inputs)
    close(decoded.tokens[written], theirs.decoder_hidden_states[-1][written])
    entries = model.head.target.vocab_size
    scores = model.head.output(decoded.tokens)
    close(scores[written], theirs.logits[..., :entries][written])
    valid = torch.ones(len(ANSWERS), dtype=torch.bool)
    term = model.head.loss(model.head(decoded), targets, valid)["next_token"]
    asked = theirs_in["labels"] != -100
    loss = F.cross_entropy(theirs.logits[..., :entries][asked], theirs_in["labels"][asked])  # rows that no token has are no answers in zoo
    close(term.sum / term.count, loss)
    if entries == theirs.logits.shape[-1]:
        close(term.sum / term.count, theirs.loss)
    (term.sum / term.count).backward()
    loss.backward()
    given = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, gradient in given.items() if gradient is None]
    given.pop("head.output.bias", None)  # fixed there, trained here
    found = write_all(rules, given)
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, gradient in found.items():
        other = expected[name]
        if "embed_positions" in name:
            other = other[2:]
        if gradient.shape[:1] != other.shape[:1]:
            other = other[: gradient.shape[0]]
        if name.endswith("shared.weight"):  # zoo's padding is no input that could be trained
            keep = torch.arange(other.shape[0]) != 1
            gradient, other = gradient[keep], other[keep]
        scale = max(1.0, float(other.abs().max()))
        assert float((gradient - other).abs().max()) <= BOUND * scale, name
    model.eval()


@pytest.mark.parametrize("sizes", T5S.values(), ids=T5S)
def test_t5(tmp_path: Path, sizes: dict[str, Any]) -> None:
    from transformers import T5ForConditionalGeneration

    reference, fast = saved_t5(tmp_path / "theirs", sizes)
    loaded = bundled(tmp_path / "theirs", "t5", tmp_path)
    node = loaded.bundle.config["model"]
    compare(loaded, reference, fast, t5.rules(node["encoder"], node["decoder"], tied=node["head"]["output"] == "tied"))
    t5.T5Converter().write(loaded, tmp_path / "ours")
    again, report = T5ForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert not report["unexpected_keys"], report
    same(loaded, again, reference, fast)


@pytest.mark.parametrize("sizes", BARTS.values(), ids=BARTS)
def test_bart(tmp_path: Path, sizes: dict[str, Any]) -> None:
    from transformers import BartForConditionalGeneration

    reference, fast = saved_bart(tmp_path / "theirs", sizes)
    loaded = bundled(tmp_path / "theirs", "bart", tmp_path)
    node = loaded.bundle.config["model"]
    head = node["head"]
    compare(loaded, reference, fast, bart.rules(node["encoder"], node["decoder"], tied=head["output"] == "tied", biased=False))
    bart.BartConverter().write(loaded, tmp_path / "ours")
    again, report = BartForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    same(loaded, again, reference, fast)


@torch.no_grad()
def same(loaded: LoadedBundle, again: Any, reference: Any, fast: Any) -> None:
    """What transformers loads of zoo's files gives what it gave before; rows of no token aside."""
    _, _, given = batches(loaded, fast)
    entries = len(fast)
    found, before = again.eval()(**given).logits, reference(**given).logits
    close(found[..., :entries], before[..., :entries])


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    told = json.loads((folder / "config.json").read_text())
    change(told)
    (folder / "config.json").write_text(json.dumps(told))


def test_variants_that_zoo_has_not_are_refused(tmp_path: Path) -> None:
    saved_bart(tmp_path / "bart", BARTS["plain"])
    edited(tmp_path / "bart", lambda told: told.update(normalize_before=True))
    with pytest.raises(CheckpointError, match="normalize_before=true: a variant of BART"):
        bundled(tmp_path / "bart", "bart", tmp_path / "a")
    edited(tmp_path / "bart", lambda told: told.update(normalize_before=False, decoder_start_token_id=0))
    with pytest.raises(CheckpointError, match="decoder_start_token_id is 0"):
        bundled(tmp_path / "bart", "bart", tmp_path / "b")
    saved_t5(tmp_path / "t5", T5S["first"])
    edited(tmp_path / "t5", lambda told: told.update(feed_forward_proj="gated-tanh"))
    with pytest.raises(CheckpointError, match="feed_forward_proj='gated-tanh'"):
        bundled(tmp_path / "t5", "t5", tmp_path / "c")
    (tmp_path / "t5" / "tokenizer.json").unlink()
    edited(tmp_path / "t5", lambda told: told.update(feed_forward_proj="relu"))
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        bundled(tmp_path / "t5", "t5", tmp_path / "d")


def test_a_model_with_other_options_has_no_place(tmp_path: Path) -> None:
    saved_bart(tmp_path / "bart", BARTS["plain"])
    loaded = bundled(tmp_path / "bart", "bart", tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.encoder\.norm is layer, where rms is needed(.|\n)*model\.decoder\.positions is learned"):
        t5.T5Converter().write(loaded, tmp_path / "t5")
    loaded.bundle.config["model"]["decoder"]["activation"] = "relu"
    with pytest.raises(CheckpointError, match=r"model\.decoder\.activation is relu, where the encoder's gelu is needed(.|\n)*model\.decoder\.activation=gelu"):
        bart.BartConverter().write(loaded, tmp_path / "again")
