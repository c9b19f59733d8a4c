"""The trainer knows no modality."""

import re
from pathlib import Path

import zoo.training

WORDS = {
    *("image", "images", "pixel", "pixels", "video", "text", "texts", "token", "tokens", "tokenizer", "tokenizers", "word", "words", "sentence"),
    *("audio", "sound", "waveform", "spectrogram", "mel", "speech"),
}
OWN = {
    *("callbacks", "checkpoint", "ema", "environment", "evaluator", "guard", "init", "job", "optimizer_state", "resume"),
    *("signals", "state", "step", "tensors", "trainer"),
}


def test_no_modality_word_in_the_trainer() -> None:
    """DESIGN.md: a word of one modality here would be the beginning of a special case. Package names and config keys are listed, each with its reason."""
    allowed = {("environment", "tokenizers"): "a package's name", ("resume", "tokenizer"): "a key of the config, classified"}
    found = []
    for file in Path(zoo.training.__file__).parent.glob("*.py"):
        if file.stem not in OWN:
            continue
        words = re.findall(r"[a-z_]+", file.read_text().lower())
        found += [(file.stem, word) for word in WORDS if word in words and (file.stem, word) not in allowed]
    assert found == []
    assert {file.stem for file in Path(zoo.training.__file__).parent.glob("*.py")} >= OWN
