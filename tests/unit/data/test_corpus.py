"""Running text as windows: every token told once, nothing across documents, bytes that add up, files that never have to be in memory, exact resume."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo.config import RunConfig
from zoo.data.datasets.corpus import Corpus, Documents, SplitBy
from zoo.data.loader import Loader
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.tokenizers.character import CharacterTokenizer
from zoo.errors import DataError
from zoo.settings import BatchPacking, Cache, LoaderSettings
from zoo.training.job import run_job

LINES = ["In the beginning", "día, 🙂 and night", "", "a", "the end of it all. " * 6]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def text_file(tmp_path: Path, name: str = "a.txt") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def whole(path: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"tokenizer": ByteTokenizer(), "max_length": 10, "validation": 0.0, "test": 0.0}
    return Corpus(path=str(path), **(given | options)).open()


def windows(data: Any, split: str = "train") -> list[Any]:
    return [data.splits[split].read(row)["text"] for row in range(len(data.splits[split]))]


def texts(data: Any) -> list[str]:
    """The documents again, from the windows: a window begins with the token that the one before it ended with."""
    found: list[list[int]] = []
    begin = data.inputs["text"].tokenizer.begin_id
    for window in windows(data):
        if window.ids[0] == begin:
            found.append([])
        found[-1] += window.following.tolist()
    return [data.inputs["text"].tokenizer.decode(ids) for ids in found]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer, lambda: BpeTokenizer(vocab_size=290)])
def test_every_token_is_told_once_and_bytes_add_up(tmp_path: Path, tokenizer: Any) -> None:
    data = whole(text_file(tmp_path), documents=Documents.LINE, tokenizer=tokenizer())
    held = [line for line in LINES if line]
    assert texts(data) == held
    found = windows(data)
    assert max(len(window.ids) for window in found) == 10
    assert sum(window.size for window in found) == sum(len(line.encode()) for line in held)
    own = data.inputs["text"].tokenizer
    assert sum(len(window.following) for window in found) == sum(len(own.encode(line)) - 1 for line in held)
    assert data.splits["train"].lengths()["text"].tolist() == [len(window.ids) for window in found]


def test_what_a_document_is(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    assert texts(whole(path)) == [path.read_text(encoding="utf-8")]
    assert texts(whole(path, documents=Documents.PARAGRAPH)) == ["\n".join(LINES[:2]), "\n".join(LINES[3:])]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"t": f"{line}\n"}) for line in LINES), encoding="utf-8")
    assert texts(whole(rows, text="t")) == [f"{line}\n" for line in LINES]
    both = tmp_path / "both"
    both.mkdir()
    text_file(both, "b.txt")
    (both / "a.md").write_text("first")
    (both / "c.bin").write_bytes(b"\xff")
    assert texts(whole(both)) == ["first", path.read_text(encoding="utf-8")]


def test_a_table_has_the_same_tokens(tmp_path: Path) -> None:
    """Documents that fit into a window are the samples that data=table makes of them."""
    from zoo.data.datasets.table import Table, TargetKind

    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": line}) for line in LINES if line), encoding="utf-8")
    data = whole(rows, max_length=200)
    table = Table(
        path=str(rows), text="text", target="text", target_kind=TargetKind.NEXT_TOKEN, tokenizer=ByteTokenizer(), max_length=201, validation=0.0, test=0.0
    ).open()
    for split in range(len(data.splits["train"])):
        one, two = data.splits["train"].read(split), table.splits["train"].read(split)
        mine, theirs = data.targets["next"].encode(one["next"]), table.targets["next"].encode(two["next"])
        assert mine["values"].tolist() == theirs["values"].tolist()[:-1]
        assert mine["bytes"].tolist() == theirs["bytes"].tolist()


def test_tails_and_hashes(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("".join(f"line {number} of the text\n" for number in range(400)))
    tail = whole(path, split_by=SplitBy.TAIL, validation=0.1, test=0.2)
    parts = []
    for name in ("train", "validation", "test"):
        parts.append("".join(tail.inputs["text"].tokenizer.decode(window.following.tolist()) for window in windows(tail, name)))
    assert "".join(parts) == path.read_text()
    assert all(part.endswith("\n") for part in parts)
    assert [round(len(part) / len(path.read_text()), 2) for part in parts] == [0.7, 0.1, 0.2]
    lines = whole(path, documents=Documents.LINE, validation=0.1, test=0.2)
    again = whole(path, documents=Documents.LINE, validation=0.1, test=0.2)
    counts = {name: len(split.documents) for name, split in lines.splits.items()}
    assert sum(counts.values()) == 400
    assert 50 < counts["test"] < 110
    assert {name: len(split.documents) for name, split in again.splits.items()} == counts
    (first,) = {lines.splits["test"].describe(0)}
    assert first.startswith(f"{path}, document from byte ")


def test_tokens_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(tmp_path)
    first = whole(path).splits["train"].folder
    monkeypatch.setattr("zoo.data.tokens.write", lambda *_: pytest.fail("tokenised again"))
    assert whole(path).splits["train"].folder == first
    monkeypatch.undo()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path.write_text("other text")
    assert whole(path).splits["train"].folder != first
    assert not list((tmp_path / "cache").rglob(".partial-*"))


def loader(data: Any, cache: Cache, **options: Any) -> Loader:
    settings = LoaderSettings(batch_size=4, cache=cache, packing=BatchPacking.FLAT)
    return Loader(data=data, split="train", settings=settings, augment={}, seed=1, training=True, batch_size=4, **options)


def seen(batches: Any) -> list[Any]:
    return [
        (batch.ids.tolist(), batch.inputs["text"].values.tolist(), batch.targets["next"].tolist(), batch.targets["bytes"].tolist())
        for parts in batches
        for batch in parts
    ]


def test_the_same_batches_from_disk_and_from_memory_and_after_a_stop(tmp_path: Path) -> None:
    data = whole(text_file(tmp_path), documents=Documents.LINE)
    memory = seen(loader(data, Cache.MEMORY))
    assert seen(loader(data, Cache.NONE)) == memory
    stopped, state = loader(data, Cache.NONE), {}
    for number, _ in enumerate(stopped):
        if number == 1:
            state = stopped.state_dict()
            break
    again = loader(pickle.loads(pickle.dumps(data)), Cache.NONE)  # noqa: S301 - as a loader process gets it
    again.load_state_dict(state)
    assert seen(again) == memory[2:]
    ranks = [seen(loader(data, Cache.NONE, rank=rank, world=2)) for rank in (0, 1)]
    together = [sorted(one[0] + two[0]) for one, two in zip(*ranks, strict=True)]
    assert together == [sorted(entry[0]) for entry in memory]


def test_what_is_read_is_all_that_is_in_memory(tmp_path: Path) -> None:
    """A window is a slice of a mapped file, whatever the corpus holds."""
    data = whole(text_file(tmp_path))
    split = data.splits["train"]
    assert isinstance(split.tokens.ids, np.memmap)
    assert isinstance(split.tokens.ends, np.memmap)
    assert split.read(1)["text"].ids.untyped_storage().nbytes() == 11 * 8


def test_characters(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer()
    tokenizer.train(LINES)
    for line in LINES[:3]:
        assert tokenizer.decode(tokenizer.encode(line)) == line if line else tokenizer.encode(line) == [tokenizer.pad_id]
        assert len(tokenizer.encode(line)) == max(1, len(line))
        assert tokenizer.offsets(line) == [(place, place + 1) for place in range(len(line))]
    assert tokenizer.decode(tokenizer.encode("aß\n")) == "a"  # what training did not show is unknown
    assert tokenizer.cut_at("día 🙂", 3) == 4
    tokenizer.save(tmp_path / "t")
    assert CharacterTokenizer.load(tmp_path / "t").encode(LINES[1]) == tokenizer.encode(LINES[1])
    with pytest.raises(ValueError, match="vocab_size=2"):
        CharacterTokenizer(vocab_size=2)


@pytest.mark.parametrize(
    ("content", "options", "problem"),
    [
        (b"\xff\xfe", {}, "not UTF-8"),
        (b'{"other": 1}', {"name": "a.jsonl"}, "no text in column 'text'; it has other"),
        (b"[", {"name": "a.jsonl"}, "not JSON"),
        (b"", {}, "is left to train on"),
        (b'{"text": "a"}', {"name": "a.jsonl", "split_by": SplitBy.TAIL, "test": 0.1}, "rows of JSON lines are not cut"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, options: dict[str, Any], problem: str) -> None:
    path = tmp_path / options.pop("name", "a.txt")
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        whole(path, **options)
    with pytest.raises(DataError, match="no file or folder at"):
        whole(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no text"):
        whole(tmp_path / "empty")


def test_a_model_learns_and_writes(tmp_path: Path) -> None:
    path = tmp_path / "talk.txt"
    path.write_text("the cat sat on the mat and the dog sat on the log\n" * 60)
    config = RunConfig.from_dict(
        {
            "name": "talk",
            "data": {"name": "corpus", "path": str(path), "split_by": "tail", "max_length": 32, "batch_size": 8, "augment": {}, "cache": "none"}
            | {"tokenizer": {"name": "character"}, "validation": 0.1, "test": 0.1},
            "model": {
                "encoder": {"name": "transformer", "dim": 48, "depth": 2, "heads": 4, "attention": "causal", "dropout": 0.0},
                "decoder": {"name": "none"},
                "head": {"name": "next_token"},
            },
            "optimizer": {"name": "adamw", "lr": 0.005},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 120, "device": "cpu"},
        }
    )
    result = run_job(config, tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert figures["test/bits_per_byte"] < 0.5
    assert result is not None
    from zoo.inference.predictor import Predictor

    (answer,) = Predictor.load(tmp_path / "run").predict(["the cat sat on the "], max_tokens=4)
    assert answer["continuation"] == "mat "
    torch.testing.assert_close(np.log2(figures["test/perplexity"]), figures["test/bits_per_byte"], rtol=1e-4, atol=0)  # one character, one byte
