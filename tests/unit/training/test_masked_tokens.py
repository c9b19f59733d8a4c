"""Masked language models, from a table of texts to filled gaps; what is masked, against counting and BERT's shares."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.config import RunConfig
from zoo.data.codecs.masked import MaskedTokenCodec, Masking
from zoo.data.codecs.text import TextCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import DataError
from zoo.inference.evaluate import evaluate_bundle
from zoo.inference.predictor import Predictor
from zoo.random import SampleRandom
from zoo.structs import Values
from zoo.training.job import run_job

PLACES = {"paris": "france", "rome": "italy", "berlin": "germany", "madrid": "spain"}
TEXTS = [f"{city} is a city in {country} and {country} has {city}" for city, country in PLACES.items()]


def codecs(**options: Any) -> tuple[TextCodec, MaskedTokenCodec]:
    tokenizer = WordPieceTokenizer(vocab_size=100, min_frequency=1)
    tokenizer.train([text.replace("germany", "ger many") for text in TEXTS])
    text = TextCodec(name="text", tokenizer=tokenizer, max_length=30)
    return text, MaskedTokenCodec(name="masked", text=text, **options)


def batch(masked: MaskedTokenCodec, texts: list[str]) -> tuple[Values, dict[str, torch.Tensor]]:
    processor = Processor({"text": masked.text}, {"masked": masked})  # type: ignore[dict-item]
    made = processor.batch([{"text": text, "masked": text} for text in texts], with_targets=True)
    return made.inputs["text"], dict(made.targets)


def test_whole_words_are_asked_for_in_berts_shares() -> None:
    """15 % of the words; of their tokens 80 % masked, 10 % another, 10 % as they are. Special tokens never."""
    _, masked = codecs()
    count = 4000
    values, targets = batch(masked, [TEXTS[2]] * count)
    shown, told = masked.draw(values, targets, SampleRandom(0, 0, torch.arange(count)))
    assert isinstance(values.values, torch.Tensor)
    assert isinstance(shown.values, torch.Tensor)
    asked, words = told["masked"] != -1, targets["words"]
    assert "words" not in told
    assert torch.equal(told["masked"][asked], values.values[asked])
    assert torch.equal(shown.values[~asked], values.values[~asked])
    assert not bool(asked[words < 0].any())
    pieces = [[place for place in range(words.shape[1]) if words[0, place] == word] for word in range(int(words.max()) + 1)]
    assert max(map(len, pieces)) > 1, "a word of several tokens, or nothing is tested"
    for word in pieces:
        assert bool((asked[:, word] == asked[:, word[:1]]).all())
    chosen = torch.stack([asked[:, word[0]] for word in pieces], dim=1).float()
    assert bool(chosen.any(dim=1).all()), "of every text something is asked for"
    none = 0.85 ** len(pieces)  # texts of which nothing was drawn give one word
    assert float(chosen.mean()) == pytest.approx(0.15 + none / len(pieces), abs=0.005)
    mask_id = masked.tokenizer.mask_id
    hidden, kept = (shown.values[asked] == mask_id).float().mean(), (shown.values[asked] == values.values[asked]).float().mean()
    assert float(hidden) == pytest.approx(0.8, abs=0.02)
    assert float(kept) == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize("masking", list(Masking))
def test_what_is_asked_depends_on_seed_epoch_and_sample_alone(masking: Masking) -> None:
    """R3, R8: not on padding, order or mates."""
    _, masked = codecs(masking=masking, share=0.4)
    texts = [TEXTS[0], "rome", TEXTS[3]]
    values, targets = batch(masked, texts)
    whole = masked.draw(values, targets, SampleRandom(7, 2, torch.tensor([5, 6, 9])))
    alone_values, alone_targets = batch(masked, texts[1:2])
    alone = masked.draw(alone_values, alone_targets, SampleRandom(7, 2, torch.tensor([6])))
    assert isinstance(whole[0].values, torch.Tensor)
    assert isinstance(alone[0].values, torch.Tensor)
    size = alone[0].values.shape[1]
    assert torch.equal(whole[0].values[1:2, :size], alone[0].values)
    assert torch.equal(whole[1]["masked"][1:2, :size], alone[1]["masked"])
    again = masked.draw(values, targets, SampleRandom(7, 3, torch.tensor([5, 6, 9])))
    assert not torch.equal(whole[1]["masked"], again[1]["masked"])


def test_what_cannot_be_masked_is_refused() -> None:
    _, masked = codecs()
    with pytest.raises(DataError, match="has no word that could be masked"):
        masked.encode("\x01")
    text = TextCodec(name="text", tokenizer=ByteTokenizer(), max_length=30)
    with pytest.raises(DataError, match="the tokenizer byte has no token to mask with; choose data/tokenizer=wordpiece"):
        MaskedTokenCodec(name="masked", text=text).encode("abc")
    with pytest.raises(ValueError, match=r"mask_share=1\.0 is no share"):
        MaskedTokenCodec(name="masked", text=text, share=1.0)


def test_learns_is_measured_and_fills_gaps(tmp_path: Path) -> None:
    """R7: a city tells its country; figures do not depend on the batches, since masks belong to samples."""
    rows = [{"text": text, "split": split} for text in TEXTS for split in ("train",) * 8 + ("validation", "test")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"name": "table", "path": str(tmp_path / "rows.jsonl"), "text": "text", "target": "text", "target_kind": "masked", "split_column": "split"}
    config = RunConfig.from_dict(
        {
            "name": "gaps",
            "data": data | {"tokenizer": {"name": "wordpiece", "vocab_size": 100}, "max_length": 30, "batch_size": 16, "augment": {}},
            "model": {
                "encoder": {"name": "transformer", "dim": 32, "depth": 2, "heads": 2, "dropout": 0.0},
                "decoder": {"name": "none"},
                "head": {"name": "masked_tokens", "output": "tied"},
            },
            "optimizer": {"name": "adamw", "lr": 0.005},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 250, "device": "cpu"},
        }
    )
    run_job(config, tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert figures["test/accuracy"] > 0.8
    again = evaluate_bundle(tmp_path / "run", overrides=["data.eval_batch_size=3"]).evaluation.figures
    assert again == {name: pytest.approx(value, rel=1e-4) for name, value in figures.items() if name.startswith("test/")}
    predictor = Predictor.load(tmp_path / "run")
    first, second, third = predictor.predict(
        ["rome is a city in [MASK] and italy has rome", "paris is a [MASK] in [MASK] and france has paris", "no gap"], top_k=2
    )
    assert first["filled"] == "rome is a city in italy and italy has rome"
    assert second["filled"] == "paris is a city in france and france has paris"
    assert [len(place) for place in second["masked"]] == [2, 2]
    assert second["masked"][1][0]["token"] == "france"
    assert "the text has no [MASK] to be told" in third["error"]
