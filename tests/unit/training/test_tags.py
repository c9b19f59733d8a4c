"""Labels of words, from a table to tagged text; spans against seqeval, places of tokens against transformers' alignment."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from zoo.config import RunConfig
from zoo.data.codecs.tag import TagCodec, WordsCodec, first_tokens, spans_of, words_of
from zoo.data.processor import Processor
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import DataError
from zoo.heads.tag_metrics import TagMetrics
from zoo.inference.evaluate import evaluate_bundle
from zoo.inference.predictor import Predictor
from zoo.specs import TagTarget
from zoo.training.job import run_job

LABELS = ("O", "B-place", "I-place", "B-person", "I-person")
WORDS = ["the", "unbelievable", "cat", "don't", "sit", "on", "día", "."]


@pytest.mark.parametrize("seed", range(20))
def test_spans_are_counted_as_seqeval_does(seed: int) -> None:
    """Random labels, whatever their order, in rows of unequal lengths, some of which count for nothing; in batches of two sizes."""
    torch.manual_seed(seed)
    lengths = torch.randint(1, 12, (9,))
    there, told = (torch.randint(0, 5, (9, 12)) for _ in range(2))
    told = torch.where(torch.rand(9, 12) < 0.6, there, told)
    real = (torch.arange(12) < lengths[:, None]) & (torch.rand(9, 12) < 0.8)
    real[:, 0] = True
    valid = torch.arange(9) != 4
    logits = torch.nn.functional.one_hot(told, 5).float()
    wanted = there.masked_fill(~real, -1)
    names: list[list[list[str]]] = [
        [[LABELS[label] for label in row[own].tolist()] for row, own, counts in zip(labels, real, valid, strict=True) if counts] for labels in (there, told)
    ]
    for size in (9, 2):
        metrics = TagMetrics(TagTarget(name="tags", labels=LABELS))
        for start in range(0, 9, size):
            part = slice(start, start + size)
            metrics.update({"logits": logits[part]}, {"tags": wanted[part]}, valid[part])
        figures = metrics.compute()
        assert figures["f1"] == pytest.approx(f1_score(*names))
        assert figures["precision"] == pytest.approx(precision_score(*names))
        assert figures["recall"] == pytest.approx(recall_score(*names))
        counted = valid[:, None] & real
        assert figures["accuracy"] == pytest.approx(float((there == told)[counted].float().mean()))
    for row in names[1]:
        words = [{"tag": tag, "start": place, "end": place + 1} for place, tag in enumerate(row)]
        found = [(span["kind"], span["start"], span["end"] - 1) for span in spans_of(words, ["x"] * len(row))]
        assert found == get_entities(row)


def tokenizers() -> list[Any]:
    made = [BpeTokenizer(vocab_size=300), WordPieceTokenizer(vocab_size=100), ByteTokenizer()]
    for tokenizer in made:
        tokenizer.train([" ".join(WORDS), "cat sit on the unbel cat"])
    return made


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda tokenizer: tokenizer.kind)
def test_a_words_first_token_is_found_and_what_is_cut_off_has_none(tokenizer: Any) -> None:
    ids = tokenizer.encode(" ".join(WORDS))
    places = first_tokens(tokenizer, WORDS, 200)
    bounds = [*places[1:], len(ids) - 1]
    assert all(place is not None for place in places)
    if tokenizer.kind == "byte":
        bounds = [place + len(word.encode()) for place, word in zip(places, WORDS, strict=True)]
    pieces = [tokenizer.decode(ids[first:last]).strip() for first, last in zip(places, bounds, strict=True)]
    assert [piece.replace(" ", "") for piece in pieces] == [word if tokenizer.kind != "wordpiece" else word.replace("í", "i") for word in WORDS]
    cut = first_tokens(tokenizer, WORDS, places[3] + 1)  # type: ignore[operator]
    assert cut[:2] == places[:2]
    assert cut[3:] == [None] * 5


def test_places_are_transformers_own() -> None:
    """The first token of each word, as transformers aligns labels."""
    from transformers import PreTrainedTokenizerFast

    wordpiece = tokenizers()[1]
    fast = PreTrainedTokenizerFast(tokenizer_object=wordpiece.library)
    ids = fast(WORDS[:3] + WORDS[4:6], is_split_into_words=True).word_ids()
    expected = [ids.index(number) for number in range(5)]
    assert first_tokens(wordpiece, WORDS[:3] + WORDS[4:6], 50) == expected


def test_running_text_is_cut_into_words_and_signs() -> None:
    words, places = words_of("Don't go, e.g. to St.-Malo (día 3)!")
    assert words == ["Don't", "go", ",", "e", ".", "g", ".", "to", "St", ".", "-", "Malo", "(", "día", "3", ")", "!"]
    assert ["Don't go, e.g. to St.-Malo (día 3)!"[start:end] for start, end in places] == words
    assert words_of(["a", "bc"]) == (["a", "bc"], [(0, 1), (2, 4)])
    for wrong in ([], ["a b"], ["a", ""], 3, "   "):
        with pytest.raises(DataError, match="word"):
            words_of(wrong)


def test_what_does_not_fit_is_refused() -> None:
    words = WordsCodec(name="text", tokenizer=ByteTokenizer(), max_length=30)
    tags = TagCodec.fit("tags", [["N", "V"], "O N"], words)
    assert tags.labels == ("O", "N", "V")
    with pytest.raises(DataError, match="1 tags for 2 words"):
        tags.encode({"words": ["a", "b"], "tags": ["N"]})
    with pytest.raises(DataError, match="tag 'X' of 'tags' does not occur in the training split"):
        tags.encode({"words": ["a"], "tags": ["X"]})
    with pytest.raises(DataError, match="has 1 label in the training split"):
        TagCodec.fit("tags", [["N"]], words)


def test_learns_is_measured_and_tags(tmp_path: Path) -> None:
    """Names begin with a capital letter; everything else is outside."""
    people, others = ["Ann", "Bob", "Carl", "Dora"], ["sees", "the", "dog", "and", "hears", "a"]
    generator = torch.Generator().manual_seed(0)

    def sentence() -> dict[str, Any]:
        chosen = [(people if torch.rand((), generator=generator) < 0.4 else others) for _ in range(6)]
        words = [group[int(torch.randint(len(group), (), generator=generator))] for group in chosen]
        inside, tags = False, []
        for word in words:
            tags.append(("I-name" if inside else "B-name") if word in people else "O")
            inside = word in people
        return {"w": words, "t": tags}

    rows = [sentence() | {"split": ("train",) * 8 + ("validation", "test")} for _ in range(200)]
    rows = [row | {"split": row["split"][place % 10]} for place, row in enumerate(rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"name": "table", "path": str(tmp_path / "rows.jsonl"), "text": "w", "target": "t", "target_kind": "tags", "split_column": "split"}
    config = RunConfig.from_dict(
        {
            "name": "names",
            "data": data | {"tokenizer": {"name": "byte"}, "max_length": 60, "batch_size": 16, "augment": {}},
            "model": {
                "encoder": {"name": "lstm", "dim": 32, "depth": 1, "dropout": 0.0},
                "decoder": {"name": "none"},
                "head": {"name": "token_classification"},
            },
            "optimizer": {"name": "adamw", "lr": 0.02},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 120, "device": "cpu"},
        }
    )
    run_job(config, tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert figures["test/accuracy"] > 0.95
    assert figures["test/f1"] > 0.9
    again = evaluate_bundle(tmp_path / "run", overrides=["data.eval_batch_size=3"]).evaluation.figures
    assert again == {name: pytest.approx(value, rel=1e-4) for name, value in figures.items() if name.startswith("test/")}
    predictor = Predictor.load(tmp_path / "run")
    first, second, third = predictor.predict(["the dog  sees Ann Bob and Carl", "a " * 40 + "Dora", "  "])
    assert [(span["text"], span["start"]) for span in first["spans"]] == [("Ann Bob", 14), ("Carl", 26)]
    assert [entry["word"] for entry in first["words"]] == ["the", "dog", "sees", "Ann", "Bob", "and", "Carl"]
    assert "its last 12 words have no tag" in second["note"]
    assert third["error"] == "the text has no word"
    processor = Processor.load(tmp_path / "run" / "bundle" / "processor")
    assert isinstance(processor.targets["tags"], TagCodec)
    assert processor.targets["tags"].labels[0] == "O"
