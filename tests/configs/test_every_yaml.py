"""Every config file that zoo ships: found recursively, composed, built on the meta device, stepped once on fake data.

Resolved configs are kept as golden text, so that a diff shows what a change of a default or a preset did:
``python tools/update_golden.py`` writes them anew.
"""

from pathlib import Path

import pytest

from zoo.checks import check
from zoo.compose import compose
from zoo.presets import conf_dir, preset_node
from zoo.registry import DATASETS, DECODERS, ENCODERS, HEADS, OPTIMIZERS, SCHEDULES

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(file.relative_to(conf_dir()).with_suffix("").as_posix() for file in conf_dir().rglob("*.yaml"))
RECORDS = [name for name in FILES if name.startswith("pretrained/")]
DATA_OF = {
    "ImageInput": ["data=digits"],
    "TokenInput": ["data=tweets"],
    "TextInput": ["data=tweets"],
    "HistoryInput": ["data=ml100k", "model/head=next_item"],
    "SpectrogramInput": ["data=sample_sounds"],
    "TableInput": ["data=breast_cancer"],
    "several": ["data=stamps"],
}
RANKING = ["model/encoder=transformer_tiny", "model.encoder.attention=causal", "model/head=next_item"]
PAIRS = ["model/encoder=dual_tiny", "model/head=contrastive"]
LANGUAGE = ["model/encoder=transformer_tiny", "model.encoder.attention=causal", "model/head=next_token"]
CAUSAL = ("gpt2_tiny", "gpt2", "llama_tiny", "llama3_1b", "qwen2_0_5b", "mistral_7b")
HUGE = ("llama3_1b", "qwen2_0_5b", "mistral_7b")
"""Composed and built on the meta device alone."""
CHAT = ["model/encoder=gpt2_tiny", "model/head=next_token"]
TRANSLATION = ["data=english_spanish", "model/encoder=transformer_tiny", "model/decoder=transformer_tiny", "model/head=next_token"]
ENCODER_OF = {
    "wordnet": ["model/encoder=transformer_tiny", "model/head=embedding"],
    "wordnet_questions": ["data/tokenizer=wordpiece", "model/encoder=transformer_tiny", "model/head=question_answering"],
    "bible_text": CHAT,
    "wordnet_lemmas": TRANSLATION[1:],
    "brown_genre": ["model/encoder=bag_tiny"],
    "brown_text": CHAT,
    "chitchat": ["data/tokenizer=bpe", *CHAT],
    "english_spanish": TRANSLATION[1:],
    "brown_pos": ["model/encoder=transformer_tiny", "model/head=token_classification"],
    "bible": LANGUAGE,
    "movies": ["model/encoder=transformer_tiny"],
    "breast_cancer": ["model/encoder=table_tiny"],
    "tweets": ["model/encoder=transformer_tiny"],
    "sample_sounds": ["model/encoder=audio_cnn_tiny"],
    "ml100k": RANKING,
    "stamps": ["model/encoder=fusion_tiny"],
    "stamps_pairs": PAIRS,
}


def overrides_of(name: str) -> list[str]:
    """A whole run around one config file."""
    group, _, option = name.rpartition("/")
    if not group:
        return []
    overrides = [f"{group}={option}"]
    if group == "model/encoder":
        schema = ENCODERS.schema(preset_node(group, option)["name"])
        pairs = option.startswith("dual")
        colour = ["data=image_folder", "data.root=photos", "data.image_size=32"]
        if option in CAUSAL:
            return ["data=bible", *overrides, "model/head=next_token_tied"]
        overrides += (
            ["data=stamps_pairs", *PAIRS[1:]]
            if pairs
            else colour
            if option.startswith("torchvision")
            else DATA_OF[next((spec for wired in schema.wired for spec in wired.specs), "several")]
        )
    elif group == "data":
        overrides += ENCODER_OF.get(option, [])
    elif name == "parallel/tensor":
        overrides += ["model/encoder=vit_tiny", "model.encoder.patch_size=2"]
    elif group == "model/head" and option.startswith("next_item"):
        overrides = ["data=ml100k", *RANKING[:-1], *overrides]
    elif group == "model/decoder":
        twin = [f"model/encoder={option}"] if (conf_dir() / f"model/encoder/{option}.yaml").is_file() else []
        overrides = [*TRANSLATION[:-2], *twin, *overrides, TRANSLATION[-1]]
    elif group == "model/head" and option.startswith("masked_tokens"):
        overrides = ["data=bible", "data.target_kind=masked", "data/tokenizer=wordpiece", "model/encoder=transformer_tiny", *overrides]
    elif group == "model/head" and option.startswith("next_token"):
        overrides = ["data=bible", *LANGUAGE[:-1], *overrides]
    elif group == "model/head" and option.startswith("contrastive"):
        overrides = ["data=stamps_pairs", *PAIRS[:-1], *overrides]
    return overrides


@pytest.mark.parametrize("name", [name for name in FILES if name not in RECORDS])
def test_composes_builds_and_steps(name: str) -> None:
    import torch

    from zoo.build import build_model, build_optimizer
    from zoo.data.fake import fake_batch

    config = compose(overrides_of(name))
    report = check(config)
    if name.rpartition("/")[2] in HUGE:
        assert report.model.num_parameters() > 3e8
        return
    model = build_model(config, report.spec)
    assert model.num_parameters() == report.model.num_parameters()
    optimizer = build_optimizer(config, model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    batch = fake_batch(report.spec, 4)
    loss = torch.stack([term.sum / term.count.clamp(min=1) for term in model.losses(batch).values()]).sum()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["train", *(name for name in FILES if name.startswith("experiment/"))])
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_DATA", raising=False)
    golden = GOLDEN / f"{name.replace('/', '__')}.yaml"
    assert compose(overrides_of(name)).to_yaml() == golden.read_text(), f"{golden} differs: if that is meant, python tools/update_golden.py"


def test_no_golden_is_left_over() -> None:
    wanted = {f"{name.replace('/', '__')}.yaml" for name in FILES if name == "train" or name.startswith("experiment/")}
    assert {file.name for file in GOLDEN.glob("*.yaml")} == wanted


def test_yaml_repeats_no_component_name() -> None:
    """A file named as a component would hide it."""
    for registry in (ENCODERS, DECODERS, HEADS, DATASETS, OPTIMIZERS, SCHEDULES):
        assert not {name.rpartition("/")[2] for name in FILES if name.rpartition("/")[0] == registry.group} & set(registry.names())
