"""RoBERTa, DistilBERT and ModernBERT with random weights as transformers saved them: hidden states, scores, loss and gradients are transformers', and they
go back. The tokenizers are ones that the test trains on a few words; sizes are odd on purpose.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_causal_converters import TEXTS, close
from test_converters import WORDS, bundled, randomise
from torch.nn import functional as F

from zoo.errors import CheckpointError
from zoo.hub.convert import distilbert, modernbert, roberta
from zoo.hub.convert.bert import BertConverter
from zoo.hub.convert.masked import Family
from zoo.hub.convert.names import write_all

CONVERTERS: dict[str, Any] = {
    "roberta": (roberta.FAMILY, roberta.RobertaConverter),
    "distilbert": (distilbert.FAMILY, distilbert.DistilBertConverter),
    "modernbert": (modernbert.FAMILY, modernbert.ModernBertConverter),
}
EPS = {"layer_norm_eps": 1e-5}
WIDE = {"max_position_embeddings": 60}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("roberta", {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 50, "type_vocab_size": 1}),
    "roberta, relu": (
        "roberta",
        {
            "hidden_size": 20,
            "num_hidden_layers": 1,
            "num_attention_heads": 5,
            "intermediate_size": 33,
            "hidden_act": "relu",
            "layer_norm_eps": 1e-5,
            "extra": 3,
        },
    ),
    "distilbert": ("distilbert", {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 50}),
    "distilbert, relu": ("distilbert", {"dim": 20, "n_layers": 3, "n_heads": 5, "hidden_dim": 33, "activation": "relu", "extra": 2}),
    "modernbert": (
        "modernbert",
        {
            "hidden_size": 24,
            "num_hidden_layers": 5,
            "num_attention_heads": 3,
            "intermediate_size": 50,
            "local_attention": 6,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        },
    ),
    "modernbert, one global": (
        "modernbert",
        {
            "hidden_size": 20,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "intermediate_size": 33,
            "local_attention": 2,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "extra": 1,
        },
    ),
}


def tokenizer_file(folder: Path, family: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if family == "distilbert":
        library = Tokenizer(models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
        library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece()
        library.add_special_tokens(list(WORDS[:5]))
        begin, end, pad, mask = "[CLS]", "[SEP]", "[PAD]", "[MASK]"
    else:
        library = Tokenizer(models.BPE())
        library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if family == "roberta" else ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
        begin, end, pad, mask = ("<s>", "</s>", "<pad>", "<mask>") if family == "roberta" else ("[CLS]", "[SEP]", "[PAD]", "[MASK]")
        trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        library.train_from_iterator(TEXTS, trainer)
    ends = [(token, library.token_to_id(token)) for token in (begin, end)]
    library.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=ends)
    fast = PreTrainedTokenizerFast(tokenizer_object=library, pad_token=pad, bos_token=begin, eos_token=end, cls_token=begin, sep_token=end, mask_token=mask)
    fast.save_pretrained(folder)
    return fast


def saved(folder: Path, name: str, kind: str) -> tuple[Any, Any, Any]:
    import transformers

    family, sizes = CASES[name]
    sizes = dict(sizes)
    fast = tokenizer_file(folder, family)
    prefix = {"roberta": "Roberta", "distilbert": "DistilBert", "modernbert": "ModernBert"}[family]
    extra = sizes.pop("extra", 0)
    ids = {"pad_token_id": fast.pad_token_id, "bos_token_id": fast.bos_token_id, "eos_token_id": fast.eos_token_id}
    ids |= {"cls_token_id": fast.cls_token_id, "sep_token_id": fast.sep_token_id} if family == "modernbert" else {}
    labels = {"num_labels": 3} if kind == "ForSequenceClassification" else {}
    config = getattr(transformers, f"{prefix}Config")(vocab_size=len(fast) + extra, **WIDE, **sizes, **ids, **labels)
    cls = getattr(transformers, f"{prefix}{kind}")
    model: Any = randomise(cls(config))
    model.save_pretrained(folder)
    return model, fast, cls


def batch(fast: Any, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.ones(4, 17, dtype=torch.bool)
    mask[1, 6:] = mask[2, 1:] = False
    return torch.randint(5, vocabulary, (4, 17)).masked_fill(~mask, fast.pad_token_id), mask


@pytest.mark.parametrize("name", CASES)
def test_masked_language_models(tmp_path: Path, name: str) -> None:
    family: Family = CONVERTERS[CASES[name][0]][0]
    reference, fast, kind = saved(tmp_path / "theirs", name, "ForMaskedLM")
    loaded = bundled(tmp_path / "theirs", CASES[name][0], tmp_path)
    model: Any = loaded.model.train()
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    codec: Any = loaded.processor.inputs["text"]
    assert [codec.tokenizer.encode(text) for text in TEXTS] == fast(TEXTS).input_ids
    entries = codec.tokenizer.vocab_size
    ids, mask = batch(fast, entries)
    asked = mask & (torch.arange(17) % 3 == 0)
    labels = ids.masked_fill(~asked, -100)
    theirs = reference(ids, attention_mask=mask.long(), labels=labels, output_hidden_states=True)
    features = model.encoder(ids, mask)
    close(features.tokens[mask], theirs.hidden_states[-1][mask])
    close(model.head.scores(features.tokens)[mask], theirs.logits[..., :entries][mask])
    loss = F.cross_entropy(theirs.logits[..., :entries][asked], ids[asked])
    term = model.head.loss(model.head(features), {"masked": ids.masked_fill(~asked, -1)}, torch.ones(4, dtype=torch.bool))["masked_tokens"]
    close(term.sum / term.count, loss)
    (term.sum / term.count).backward()
    loss.backward()
    given = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    encoder = loaded.bundle.config["model"]["encoder"]
    rules = [rule for rule in [*family.rules(encoder), *family.masked_rules] if set(rule.ours) <= set(given)]
    expected = {key.removeprefix(family.prefix): parameter.grad for key, parameter in reference.named_parameters()}
    assert len(given) == len(list(model.parameters()))
    for key, gradient in write_all(rules, given).items():
        other = expected[key]
        if key == family.positions:
            other = other[family.skipped :]
        keep = torch.arange(min(len(gradient), len(other)))
        if key == family.table:
            keep = keep[keep != codec.pad]  # zoo's filling is no input that could be trained
        close(gradient[keep], other[keep])
    CONVERTERS[CASES[name][0]][1]().write(loaded, tmp_path / "ours")
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        found = again.eval()(ids, attention_mask=mask.long()).logits
    close(found[mask][:, :entries], theirs.logits[mask][:, :entries])


@pytest.mark.parametrize("name", ["roberta", "distilbert", "modernbert"])
@torch.no_grad()
def test_encoders_and_sentence_encoders(tmp_path: Path, name: str) -> None:
    reference, fast, kind = saved(tmp_path / "theirs", name, "Model")
    loaded = bundled(tmp_path / "theirs", name, tmp_path)
    model: Any = loaded.model.eval()
    ids, mask = batch(fast, model.encoder.embedding.num_embeddings)
    theirs = reference(ids, attention_mask=mask.long()).last_hidden_state
    features = model.encoder(ids, mask)
    close(features.tokens[mask], theirs[mask])
    real = mask[..., None]
    close(model.head(features)["vectors"], F.normalize((theirs * real).sum(1) / real.sum(1), dim=-1))
    CONVERTERS[name][1]().write(loaded, tmp_path / "ours")
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not [key for key in report["missing_keys"] if "pooler" not in key]
    assert not report["unexpected_keys"]
    close(again.eval()(ids, attention_mask=mask.long()).last_hidden_state[mask], theirs[mask])


@torch.no_grad()
def test_roberta_as_a_classifier(tmp_path: Path) -> None:
    reference, fast, kind = saved(tmp_path / "theirs", "roberta", "ForSequenceClassification")
    loaded = bundled(tmp_path / "theirs", "roberta", tmp_path)
    model: Any = loaded.model.eval()
    ids, mask = batch(fast, model.encoder.embedding.num_embeddings)
    theirs = reference(ids, attention_mask=mask.long()).logits
    close(model.head(model.encoder(ids, mask))["logits"], theirs)
    roberta.RobertaConverter().write(loaded, tmp_path / "ours")
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    close(again.eval()(ids, attention_mask=mask.long()).logits, theirs)


def test_what_zoo_has_not_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a", "modernbert", "ForMaskedLM")
    file = tmp_path / "a" / "config.json"
    told = json.loads(file.read_text())
    for number, (change, said) in enumerate(
        (
            ({"norm_bias": True}, "norm_bias=true: a variant of ModernBERT"),
            ({"layer_types": ["sliding_attention"] * 5}, "layer_types"),
            ({"architectures": ["ModernBertForSequenceClassification"]}, "ModernBertForSequenceClassification, whose outputs zoo does not have"),
        )
    ):
        file.write_text(json.dumps(told | change))
        with pytest.raises(CheckpointError, match=said):
            bundled(tmp_path / "a", "modernbert", tmp_path / str(number))
    saved(tmp_path / "b", "distilbert", "ForMaskedLM")
    loaded = bundled(tmp_path / "b", "distilbert", tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"no place in ModernBERT's layout(.|\n)*placement is post, where pre is needed"):
        modernbert.ModernBertConverter().write(loaded, tmp_path / "ours")


@pytest.mark.parametrize("extra", [0, 3])
@torch.no_grad()
def test_bert_as_a_masked_language_model(tmp_path: Path, extra: int) -> None:
    from transformers import BertConfig, BertForMaskedLM

    fast = tokenizer_file(tmp_path / "theirs", "distilbert")
    sizes = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 33, "hidden_act": "relu"}
    reference: Any = randomise(BertForMaskedLM(BertConfig(vocab_size=len(fast) + extra, **WIDE, **sizes)))
    reference.save_pretrained(tmp_path / "theirs")
    loaded = bundled(tmp_path / "theirs", "bert", tmp_path)
    model: Any = loaded.model.eval()
    ids, mask = batch(fast, len(fast))
    theirs = reference(ids, attention_mask=mask.long()).logits
    close(model.head(model.encoder(ids, mask))["logits"][mask], theirs[mask][:, : len(fast)])
    BertConverter().write(loaded, tmp_path / "ours")
    again, report = BertForMaskedLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    close(again.eval()(ids, attention_mask=mask.long()).logits[mask][:, : len(fast)], theirs[mask][:, : len(fast)])
