"""GPT-2, Llama, Qwen 2 and Mistral with random weights as transformers saved them: hidden states, scores, loss, gradients and greedy continuations are
transformers', and they go back.

The tokenizers are ones that the test trains on a few words, closed and opened as the published ones are; sizes are odd on purpose.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_converters import bundled, randomise
from torch.nn import functional as F

from zoo.errors import CheckpointError
from zoo.hub.bundle import LoadedBundle
from zoo.hub.convert import gpt2, llama
from zoo.hub.convert.names import write_all
from zoo.inference.predictor import Predictor
from zoo.inference.sampling import Sampling
from zoo.structs import Values

BOUND = 1e-5
TEXTS = ["the cat sat on a mat", "one big dog", "green hills and a mat and a dog ran on", "mat"]

RELU = {"activation_function": "relu", "tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
GPT2S: dict[str, dict[str, Any]] = {
    "plain": {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 100},
    "own output, inner": {
        "n_embd": 20,
        "n_layer": 3,
        "n_head": 5,
        "n_positions": 90,
        "n_inner": 33,
        "activation_function": "relu",
        "tie_word_embeddings": False,
    },
}
UNBOUND = {"sliding_window": None}
WIDE = {"num_hidden_layers": 2, "max_position_embeddings": 120}
LLAMAS: dict[str, dict[str, Any]] = {
    "llama": {"kind": "Llama", "hidden_size": 24, "intermediate_size": 50, "num_attention_heads": 6, "num_key_value_heads": 2},
    "llama 3": {
        "kind": "Llama",
        "hidden_size": 20,
        "intermediate_size": 33,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "head_dim": 6,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "qwen 2": {"kind": "Qwen2", "hidden_size": 24, "intermediate_size": 41, "num_attention_heads": 4, "num_key_value_heads": 1},
    "qwen 2, tied": {
        "kind": "Qwen2",
        "hidden_size": 18,
        "intermediate_size": 20,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "mistral": {"kind": "Mistral", "hidden_size": 24, "intermediate_size": 50, "num_attention_heads": 6, "num_key_value_heads": 3, "sliding_window": 5},
    "mistral, all seen": {
        "kind": "Mistral",
        "hidden_size": 16,
        "intermediate_size": 21,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "sliding_window": None,
    },
}


def tokenizer_file(folder: Path, family: str) -> Any:
    """GPT-2's adds nothing to a text; Llama's opens it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>"] if family == "gpt2" else ["<unk>", "<s>", "</s>"]
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    library.post_processor = (
        processors.ByteLevel(trim_offsets=False)
        if family == "gpt2"
        else processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    )
    roles = {"eos_token": "<|endoftext|>"} if family == "gpt2" else {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=library, **roles)
    fast.save_pretrained(folder)
    return fast


def saved(folder: Path, sizes: dict[str, Any], extra: int = 0) -> tuple[Any, Any, Any]:
    """A model of transformers and its tokenizer, in a folder; and its class."""
    import transformers

    sizes = dict(sizes)
    kind = sizes.pop("kind", "GPT2")
    fast = tokenizer_file(folder, kind.lower())
    if kind == "GPT2":
        ids, classes = {"bos_token_id": 0, "eos_token_id": 0}, (transformers.GPT2Config, transformers.GPT2LMHeadModel)
    else:
        ids, classes = {"bos_token_id": 1, "eos_token_id": 2}, (getattr(transformers, f"{kind}Config"), getattr(transformers, f"{kind}ForCausalLM"))
        sizes = WIDE | sizes
    model: Any = randomise(classes[1](classes[0](vocab_size=len(fast) + extra, **sizes, **ids)))
    model.save_pretrained(folder)
    return model, fast, classes[1]


def close(found: torch.Tensor, reference: torch.Tensor) -> None:
    assert found.shape == reference.shape
    assert float((found - reference).detach().abs().max()) <= BOUND * max(1.0, float(reference.detach().abs().max()))


def compare(loaded: LoadedBundle, reference: Any, fast: Any, rules: list[Any], prefix: str) -> None:
    """A padded batch of texts of unequal lengths, which neither library closes."""
    model: Any = loaded.model.train()
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    rows = [fast(text).input_ids for text in TEXTS]
    codec: Any = loaded.processor.inputs["text"]
    assert [codec.tokenizer.prompt(text) for text in TEXTS] == rows
    assert [codec.tokenizer.encode(text) for text in TEXTS] == [[*row, fast.eos_token_id] for row in rows]
    longest = max(map(len, rows))
    mask = torch.tensor([[place < len(row) for place in range(longest)] for row in rows])
    ids = torch.tensor([row + [3] * (longest - len(row)) for row in rows])
    labels = ids.masked_fill(~mask, -100)
    theirs = reference(ids, attention_mask=mask.long(), labels=labels, output_hidden_states=True)
    features = model.encode({"text": Values(ids, mask)})
    close(features.tokens[mask], theirs.hidden_states[-1][mask])
    entries = model.head.target.vocab_size
    close(model.head.scores(features.tokens)[mask], theirs.logits[..., :entries][mask])
    following = torch.cat([labels[:, 1:], torch.full((len(rows), 1), -100)], dim=1)
    asked = following != -100
    term = model.head.loss(model.head(features), {"next": following.masked_fill(~asked, -1)}, torch.ones(len(rows), dtype=torch.bool))["next_token"]
    loss = F.cross_entropy(theirs.logits[..., :entries][asked], following[asked])
    close(term.sum / term.count, loss)
    if entries == theirs.logits.shape[-1]:
        close(term.sum / term.count, theirs.loss)
    (term.sum / term.count).backward()
    loss.backward()
    given = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, gradient in given.items() if gradient is None]
    expected = {name.removeprefix(prefix): parameter.grad for name, parameter in reference.named_parameters()}
    for name, gradient in write_all(rules, given).items():
        other = expected[name]
        keep = torch.arange(min(len(gradient), len(other))) if gradient.shape[:1] != other.shape[:1] else torch.arange(len(other))
        if "embed" in name or "wte" in name:
            keep = keep[keep != codec.pad]  # zoo's filling is no input that could be trained
        close(gradient[keep], other[keep])
    model.eval()


def continues(loaded: LoadedBundle, reference: Any, fast: Any) -> None:
    """Greedy, 64 tokens of each text alone there and together here, in double precision: random weights come near to ties."""
    predictor = Predictor(model=loaded.model.double(), processor=loaded.processor, bundle=loaded.bundle, device=torch.device("cpu"))
    double = reference.double()
    entries = loaded.model.head.target.vocab_size  # type: ignore[union-attr]
    expected = []
    for text in TEXTS:
        given = fast(text, return_tensors="pt")
        more = {"suppress_tokens": list(range(entries, double.config.vocab_size))} if double.config.vocab_size > entries else {}
        told = double.generate(given.input_ids, attention_mask=given.attention_mask, max_new_tokens=64, do_sample=False, pad_token_id=fast.eos_token_id, **more)
        expected.append(told[0, given.input_ids.shape[1] :].tolist())
    answers = predictor.predict(TEXTS, sampling=Sampling(max_tokens=64))
    assert [answer["tokens"] + (answer["ended"] == "end") for answer in answers] == list(map(len, expected))
    codec: Any = loaded.processor.inputs["text"]
    assert [answer["continuation"] for answer in answers] == [codec.tokenizer.decode(ids) for ids in expected]
    loaded.model.float()
    reference.float()


@torch.no_grad()
def returns(loaded: LoadedBundle, folder: Path, kind: Any, reference: Any, fast: Any) -> None:
    from transformers import AutoTokenizer

    again, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert AutoTokenizer.from_pretrained(folder)(TEXTS).input_ids == fast(TEXTS).input_ids
    ids = torch.randint(3, len(fast), (2, 11))
    entries = len(fast)
    close(again.eval()(ids).logits[..., :entries], reference(ids).logits[..., :entries])


@pytest.mark.parametrize(("sizes", "extra"), [(GPT2S["plain"], 3), (GPT2S["plain"], 0), (GPT2S["own output, inner"], 2)], ids=str)
def test_gpt2(tmp_path: Path, sizes: dict[str, Any], extra: int) -> None:
    reference, fast, kind = saved(tmp_path / "theirs", sizes, extra)
    loaded = bundled(tmp_path / "theirs", "gpt2", tmp_path)
    model = loaded.bundle.config["model"]
    compare(loaded, reference, fast, gpt2.rules(model["encoder"], tied=model["head"]["output"] == "tied"), "transformer.")
    continues(loaded, reference, fast)
    gpt2.Gpt2Converter().write(loaded, tmp_path / "ours")
    returns(loaded, tmp_path / "ours", kind, reference, fast)


@pytest.mark.parametrize(("name", "extra"), [(name, place % 2 * 3) for place, name in enumerate(LLAMAS)])
def test_llama_and_models_of_its_shape(tmp_path: Path, name: str, extra: int) -> None:
    reference, fast, kind = saved(tmp_path / "theirs", LLAMAS[name], extra)
    loaded = bundled(tmp_path / "theirs", "llama", tmp_path)
    model = loaded.bundle.config["model"]
    compare(loaded, reference, fast, llama.rules(model["encoder"], tied=model["head"]["output"] == "tied"), "")
    continues(loaded, reference, fast)
    llama.LlamaConverter().write(loaded, tmp_path / "ours")
    if LLAMAS[name].get("sliding_window", 0) is None:  # without a window it is a Llama, in layout too
        from transformers import LlamaForCausalLM

        kind = LlamaForCausalLM
    returns(loaded, tmp_path / "ours", kind, reference, fast)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attention_bias": True}, "attention_bias=true"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type='yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type='linear'"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
    ],
)
def test_variants_of_llama_that_zoo_has_not_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    saved(tmp_path / "theirs", LLAMAS["llama"])
    file = tmp_path / "theirs" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=said.replace("=", ".").replace("'", ".")):
        bundled(tmp_path / "theirs", "llama", tmp_path)


def test_a_model_of_another_shape_has_no_place(tmp_path: Path) -> None:
    saved(tmp_path / "theirs", LLAMAS["qwen 2"])
    loaded = bundled(tmp_path / "theirs", "llama", tmp_path)
    with pytest.raises(CheckpointError, match=r"no place in GPT-2's layout:(.|\n)*model\.encoder\.norm is rms, where layer is needed"):
        gpt2.Gpt2Converter().write(loaded, tmp_path / "ours")
    loaded.bundle.config["model"]["head"]["output_bias"] = "with"
    with pytest.raises(CheckpointError, match=r"model\.head\.output_bias is with, where none is needed"):
        llama.LlamaConverter().write(loaded, tmp_path / "ours")
