"""Two texts in one sequence, and answers with their place: tokens and segments against transformers, spans by trying all, a run that learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from zoo.config import RunConfig
from zoo.data.codecs.answer import AnswerCodec, answer_of
from zoo.data.codecs.text_pair import TextPairCodec, fitted
from zoo.data.datasets.table import Table, TargetKind
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.encoders.transformer import Segments
from zoo.errors import DataError
from zoo.heads.answer_metrics import best_spans
from zoo.inference.predictor import Predictor
from zoo.inference.written import write_split
from zoo.training.job import run_job

TEXT = "The tower, built in 1889, is 330 metres (1,083 ft) tall; día is café. And Zoë? Yes: Zoë!"
QUESTION = "How tall is it?"


def codec(kind: Any = WordPieceTokenizer, max_length: int = 80) -> TextPairCodec:
    tokenizer = kind(vocab_size=300)
    found = TextPairCodec(name="text", tokenizer=tokenizer, max_length=max_length, first="question", second="context")
    found.fit([TEXT, QUESTION] * 3)
    return found


@pytest.mark.parametrize("max_length", [80, 40, 21, 20, 7])
@pytest.mark.parametrize("swapped", [False, True])
def test_tokens_and_segments_are_transformers(max_length: int, swapped: bool) -> None:
    """BERT's pairs, cut the longest first."""
    texts = (TEXT, QUESTION) if swapped else (QUESTION, TEXT)
    pair = codec(max_length=max_length)
    fast = PreTrainedTokenizerFast(tokenizer_object=codec().tokenizer.library)  # type: ignore[attr-defined]
    theirs = fast(*texts, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
    ids = pair.encode({"question": texts[0], "context": texts[1]})["values"]
    assert ids.tolist() == theirs["input_ids"]
    assert pair.spec.separator == fast.convert_tokens_to_ids("[SEP]")
    segments = Segments(count=2, dim=1, separator=pair.spec.separator)
    with torch.no_grad():
        segments.weight.copy_(torch.tensor([[0.0], [1.0]]))
    given = torch.tensor([theirs["input_ids"]])
    assert segments(torch.zeros(1, given.shape[1], 1), given)[0, :, 0].tolist() == theirs["token_type_ids"]


def test_the_longer_text_is_cut_first() -> None:
    assert [fitted(3, 30, 20), fitted(30, 3, 20), fitted(30, 40, 20), fitted(30, 40, 21), fitted(5, 6, 20)] == [(3, 17), (17, 3), (10, 10), (10, 11), (5, 6)]


def test_packed_segments_are_each_items_own() -> None:
    from zoo.data.packing import pack
    from zoo.structs import Values

    segments = Segments(count=2, dim=4, separator=3)
    tokens = torch.tensor([[5, 3, 6, 3, 0], [7, 3, 3, 8, 9], [3, 0, 0, 0, 0]])
    mask = torch.arange(5) < torch.tensor([4, 5, 1])[:, None]
    packed = pack(Values(tokens, mask))
    assert packed.packing is not None
    assert isinstance(packed.values, torch.Tensor)
    row = segments(torch.zeros(1, 10, 4), packed.values, packed.packing)
    torch.testing.assert_close(packed.packing.unpack(row), segments(torch.zeros(3, 5, 4), tokens).masked_fill(~mask[..., None], 0))


@pytest.mark.parametrize("seed", range(30))
def test_the_best_span_by_trying_all(seed: int) -> None:
    torch.manual_seed(seed)
    logits, longest = torch.randn(3, 11, 2), seed % 5 + 1
    allowed = torch.rand(3, 11) < 0.7
    allowed[:, 0] = torch.tensor([True, seed % 2 == 0, True])
    allowed[:, 4] = True
    for answers_only in (False, True):
        spans, scores = best_spans(logits, allowed, longest, answers_only=answers_only)
        for row in range(3):
            tried = [
                (float(logits[row, first, 0] + logits[row, last, 1]), first, last)
                for first in range(11)
                for last in range(first, min(11, first + longest))
                if allowed[row, first] and allowed[row, last] and not (first == 0 and (last > 0 or answers_only))
            ]
            score, first, last = max(tried)
            assert float(scores[row]) == pytest.approx(score, rel=1e-6)
            assert spans[row].tolist() == [first, last]


@pytest.mark.parametrize("kind", [WordPieceTokenizer, BpeTokenizer])
@pytest.mark.parametrize("answer", ["330 metres", "1889", "(1,083 ft)", "café", "Zoë", TEXT, "The", "Zoë!"])
def test_an_answers_tokens_give_it_back(kind: Any, answer: str) -> None:
    pair = codec(kind, max_length=200)
    target = AnswerCodec(name="answer", texts=pair)
    row = {"question": QUESTION, "context": TEXT}
    encoded = target.encode({"texts": row, "answer": answer, "start": None})
    first, last = encoded["values"].tolist()
    assert encoded["places"][[first, last]].tolist() == [1, 1]
    found = target.present({"span": (first, last), "probability": 1.0, "score": 0.0, "without": -1.0}, {"text": row})
    assert found["answer"] == answer
    assert TEXT[found["start"] : found["end"]] == answer
    assert encoded["places"].tolist().count(1) == 1 + sum(text == 1 for text in pair.encoding(row).sequence_ids)


def test_the_second_place_of_a_word_by_its_letter() -> None:
    target = AnswerCodec(name="answer", texts=codec(max_length=200))
    row = {"question": QUESTION, "context": TEXT}
    places = [target.encode({"texts": row, "answer": "Zoë", "start": start})["values"].tolist() for start in (None, TEXT.rindex("Zoë"))]
    assert places[0] < places[1]
    squad = {"text": ["Zoë"], "answer_start": [TEXT.rindex("Zoë")]}
    assert target.encode({"texts": row, "answer": squad, "start": None})["values"].tolist() == places[1]
    assert target.encode({"texts": row, "answer": json.dumps(squad), "start": None})["values"].tolist() == places[1]


def test_answers_that_are_not_there() -> None:
    row = {"question": QUESTION, "context": TEXT}
    target = AnswerCodec(name="answer", texts=codec(max_length=30))
    assert target.encode({"texts": row, "answer": "", "start": None})["values"].tolist() == [0, 0]
    assert target.encode({"texts": row, "answer": {"text": [], "answer_start": []}, "start": None})["values"].tolist() == [0, 0]
    assert target.encode({"texts": row, "answer": "Zoë!", "start": None})["values"].tolist() == [-2, -2]  # cut off
    with pytest.raises(DataError, match=r"the answer 'Paris' does not stand in 'context'"):
        target.encode({"texts": row, "answer": "Paris", "start": None})
    with pytest.raises(DataError, match=r"does not stand at letter 3 of 'context'"):
        target.encode({"texts": row, "answer": "Zoë", "start": "3"})
    with pytest.raises(DataError, match="no number"):
        answer_of("a", "here")
    with pytest.raises(DataError, match="column 'context' is empty"):
        target.encode({"texts": {"question": "a", "context": ""}, "answer": "", "start": None})


def test_parts_hold_the_whole_text() -> None:
    pair = codec(max_length=18)
    target = AnswerCodec(name="answer", texts=pair)
    parts = target.windows({"text": {"question": QUESTION, "context": TEXT}})
    assert len(parts) > 3
    covered: set[int] = set()
    for row, at in parts:
        part = row["text"]["context"]
        assert TEXT[at : at + len(part)] == part
        assert len(pair.encoding(row["text"]).ids) <= 18
        reach = max(last for place, (_, last) in target._tokens(row["text"]))
        assert reach == len(part)  # nothing of it is cut off
        covered |= set(range(at, at + len(part)))
    assert {place for place, letter in enumerate(TEXT) if letter != " "} <= covered


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"second": None}, "name its column: second=COLUMN"),
        ({"text": None, "numbers": ("x",)}, "text=COLUMN"),
        ({"second": "q"}, "are one column"),
        ({"target_kind": TargetKind.TAGS}, "is of one text"),
        ({"target_kind": TargetKind.CLASS, "answer_start": "s"}, "is of target_kind=answer"),
        ({"target": "c"}, "the answer would be given away"),
        ({"tokenizer": ByteTokenizer()}, "knows no two texts"),
    ],
)
def test_what_a_table_refuses(options: dict[str, Any], problem: str) -> None:
    given: dict[str, Any] = {"path": "x.jsonl", "text": "q", "second": "c", "target": "a", "target_kind": TargetKind.ANSWER}
    with pytest.raises(ValueError, match=problem):
        Table(**(given | options))


def test_a_tokenizer_without_a_separator_is_refused(tmp_path: Path) -> None:
    tokenizer = BpeTokenizer(vocab_size=300)
    tokenizer.train([TEXT])
    tokenizer.library.post_processor = None  # type: ignore[assignment]
    tokenizer.save(tmp_path)
    pair = TextPairCodec(name="text", tokenizer=BpeTokenizer.load(tmp_path), max_length=20, first="a", second="b")
    with pytest.raises(DataError, match="puts nothing between two texts"):
        pair.fit([])


def test_learns_finds_and_is_measured(tmp_path: Path) -> None:
    """Asked is for the colour or for the thing of a text with one of each, anywhere among other words."""
    kinds = {"colour": ["red", "blue", "green", "white"], "thing": ["cat", "dog", "cup", "hat", "box"]}
    generator = torch.Generator().manual_seed(0)

    def one(words: list[str]) -> str:
        return words[int(torch.randint(len(words), (), generator=generator))]

    def row(place: int) -> dict[str, Any]:
        found = {kind: one(words) for kind, words in kinds.items()}
        words = [one(["so", "it", "is", "the"]) for _ in range(6)] + list(found.values())
        told = " ".join(words[number] for number in torch.randperm(8, generator=generator).tolist())
        asked = "colour" if place % 2 else "thing"
        return {"q": f"which {asked}", "c": told, "a": found[asked], "split": "train" if place % 10 < 8 else "test"}

    rows = [row(place) for place in range(600)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"name": "table", "path": str(tmp_path / "rows.jsonl"), "text": "q", "second": "c", "target": "a", "target_kind": "answer", "split_column": "split"}
    config = RunConfig.from_dict(
        {
            "name": "questions",
            "data": data | {"tokenizer": {"name": "wordpiece", "vocab_size": 100}, "max_length": 24, "batch_size": 16, "augment": {}},
            "model": {
                "encoder": {"name": "transformer", "dim": 48, "depth": 2, "heads": 4, "segments": 2, "dropout": 0.0},
                "decoder": {"name": "none"},
                "head": {"name": "question_answering", "longest": 3},
            },
            "optimizer": {"name": "adamw", "lr": 0.003},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 300, "device": "cpu"},
        }
    )
    run_job(config, tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert figures["test/exact_match"] > 0.9
    assert figures["test/f1"] >= figures["test/exact_match"]
    predictor = Predictor.load(tmp_path / "run")
    short, long, wrong = predictor.predict(
        [
            {"q": "which thing", "c": "so the hat is blue"},
            {"q": "which thing", "c": "so it is the " * 20 + "hat is it" + " the it is so" * 20},
            {"q": "which thing"},
        ]
    )
    assert (short["answer"], short["start"], short["end"]) == ("hat", 7, 10)
    assert long["answer"] == "hat"
    assert long["start"] == 13 * 20
    assert wrong["error"] == "column 'c' is empty"
    measured = write_split(tmp_path / "run")
    assert measured.figures["test/exact_match"] == pytest.approx(100 * figures["test/exact_match"], abs=2)
    (tmp_path / "asked.jsonl").write_text(json.dumps({"q": "which colour", "c": "the cup is red"}))
    (from_file,) = predictor.predict([tmp_path / "asked.jsonl"])
    assert from_file["answer"] == "red"
