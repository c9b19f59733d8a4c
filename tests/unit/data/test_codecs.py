"""Codecs of sound, tables, histories and targets: values, state in JSON and back, and what they refuse."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from zoo.data.codecs import INPUT_CODECS, TARGET_CODECS
from zoo.data.codecs.answer import AnswerCodec
from zoo.data.codecs.audio import AudioCodec
from zoo.data.codecs.context import ContextCodec
from zoo.data.codecs.dialogue import DialogueCodec, SaidCodec
from zoo.data.codecs.history import Catalogue, HistoryCodec, ItemCodec
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec, NumberCodec
from zoo.data.codecs.masked import MaskedTokenCodec, Masking
from zoo.data.codecs.pair import PairCodec
from zoo.data.codecs.table import Missing, TableCodec
from zoo.data.codecs.tag import TagCodec, WordsCodec
from zoo.data.codecs.taught import TaughtCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.codecs.text_pair import TextPairCodec
from zoo.data.codecs.token import NextTokenCodec
from zoo.data.codecs.written import Start, WrittenCodec, WrittenTokenCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import CheckpointError, DataError
from zoo.specs import Labelling
from zoo.structs import Values

CATALOGUE = Catalogue(items=["a", "b", "c", "d"], titles=["A", "B", "C", "D"], popular=[2, 1], users={"7": [1, 2, 3], "8": [4]})
SOUND = AudioCodec(name="audio", sample_rate=8000, n_mels=20, max_seconds=1.0)


# --- sound ------------------------------------------------------------------------------------------------------------------------


def tone(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    return np.repeat(wave[:, None], channels, 1).astype(np.float32)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_files_and_waveforms_agree(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, tone(8000, 0.5, 2), 8000)
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    expected = SOUND.encode((samples.T, rate))["values"]
    assert expected.shape == (20, 51)
    for form in (path, str(path), path.read_bytes()):
        torch.testing.assert_close(SOUND.encode(form)["values"], expected)


def test_integer_waveforms_are_scaled() -> None:
    wave = tone(8000, 0.2)[:, 0]
    torch.testing.assert_close(SOUND.waveform(((wave * 32767).astype(np.int16), 8000)), torch.from_numpy(wave), atol=1e-4, rtol=0)


def test_long_clips_are_cut_and_short_ones_are_not_padded() -> None:
    assert SOUND.encode((tone(8000, 9.0).T, 8000))["values"].shape[1] == SOUND.spec.max_frames == 101
    assert SOUND.encode((tone(8000, 0.001).T, 8000))["values"].shape == (20, 1)


def test_resampling_keeps_the_pitch() -> None:
    for rate in (4000, 22050, 44100):
        mel = SOUND.encode((tone(rate, 0.8).T, rate))["values"][:, 20:60].mean(1)
        assert abs(int(mel.argmax()) - int(SOUND.encode((tone(8000, 0.8).T, 8000))["values"][:, 20:60].mean(1).argmax())) <= 1


def test_what_is_no_sound_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), 8000)
    hostile: list[Any] = [tmp_path / name for name in ("text.wav", "empty.wav", "none.wav", "absent.wav")]
    hostile += [(np.array([np.nan]), 8000), (np.zeros(5), 0), (np.zeros((2, 2, 2)), 8000), (np.zeros(5, np.int64), 8000), 3, None, b"RIFF"]
    for raw in hostile:
        with pytest.raises(DataError):
            SOUND.encode(raw)


def test_finish_standardises_and_padding_is_zero() -> None:
    codec = AudioCodec(name="audio", sample_rate=8000, n_mels=20, max_seconds=1.0)
    codec.fit([(tone(8000, 0.5).T, 8000), (np.random.default_rng(0).normal(size=4000) * 0.1, 8000), Path("absent.wav")])
    values = torch.cat(
        [codec.encode((tone(8000, 0.5).T, 8000))["values"][None], codec.encode((np.random.default_rng(0).normal(size=4000) * 0.1, 8000))["values"][None]]
    )
    done = codec.finish(Values(values, torch.ones(2, 51, dtype=torch.bool))).values
    assert isinstance(done, torch.Tensor)
    assert abs(float(done.mean())) < 1e-4
    assert abs(float(done.std()) - 1) < 1e-3
    mask = torch.arange(51).repeat(2, 1) < 30
    cut = codec.finish(Values(values, mask)).values
    assert isinstance(cut, torch.Tensor)
    assert cut[:, :, 30:].eq(0).all()


# --- tables -----------------------------------------------------------------------------------------------------------------------


def table(missing: Missing = Missing.MEAN) -> TableCodec:
    codec = TableCodec(name="table", numbers=["x", "y"], categories=["c"], missing=missing)
    codec.fit([{"x": "1", "y": 10, "c": "red"}, {"x": "3", "y": 30, "c": "blue"}, {"x": "NA" if missing is not Missing.REFUSE else "2", "y": 20.0, "c": ""}])
    return codec


def test_numbers_are_standardised_and_categories_numbered() -> None:
    codec = table()
    row = codec.encode({"x": 3, "y": "30", "c": "red", "other": 1})
    torch.testing.assert_close(row["numbers"], torch.tensor([1.0, math.sqrt(1.5)]))
    assert codec.values == [["", "blue", "red"]]
    assert row["categories"].tolist() == [3]
    assert codec.encode({"x": 1, "y": 1, "c": "green"})["categories"].tolist() == [0]
    assert codec.encode({"x": 1, "y": 1, "c": None})["categories"].tolist() == [1]
    assert codec.spec.categories == (4,)


@pytest.mark.parametrize("hole", ["", "NA", "nan", None, float("nan"), " ? "])
def test_missing_numbers(hole: object) -> None:
    row = {"x": hole, "y": 30, "c": "red"}
    assert table().encode(row)["numbers"][0] == 0
    assert table(Missing.INDICATOR).encode(row)["numbers"][[0, 2, 3]].tolist() == [0, 1, 0]
    assert table(Missing.INDICATOR).spec.numbers == 4
    with pytest.raises(DataError, match="x missing"):
        table(Missing.REFUSE).encode(row)
    with pytest.raises(DataError, match=r"x \(1\)"):
        TableCodec(name="table", numbers=["x"], categories=[]).fit([row, {"x": 1}])


def test_rows_that_cannot_be_used() -> None:
    for row in ({"x": 1, "c": "red"}, {"x": "abc", "y": 1, "c": ""}, {"x": "inf", "y": 1, "c": ""}, [1, 2], "x"):
        with pytest.raises(DataError):
            table().encode(row)


def test_whole_floats_and_integers_are_one_category() -> None:
    codec = TableCodec(name="table", numbers=[], categories=["c"])
    codec.fit([{"c": 3}, {"c": 10}, {"c": 2.5}])
    assert codec.values == [["2.5", "3", "10"]]
    assert codec.encode({"c": 3.0})["categories"].tolist() == codec.encode({"c": "3"})["categories"].tolist() == [2]


def test_a_constant_column_is_no_division_by_zero() -> None:
    codec = TableCodec(name="table", numbers=["x"], categories=[])
    codec.fit([{"x": 0.1}] * 3)
    assert codec.encode({"x": 0.1})["numbers"].abs().item() < 1e-6


# --- histories --------------------------------------------------------------------------------------------------------------------


def test_histories_by_items_and_by_user() -> None:
    codec = HistoryCodec(name="history", catalogue=CATALOGUE, max_length=2)
    assert codec.encode(["a", "nope", "c", "d"])["values"].tolist() == [3, 4]
    assert codec.encode("7")["values"].tolist() == codec.encode(7)["values"].tolist() == [2, 3]
    for unseen in ("9", [], ["nope"], 3.5, None, True):
        with pytest.raises(DataError):
            codec.encode(unseen)


def test_unseen_users_and_items_have_a_stated_answer() -> None:
    """R18."""
    codec = ItemCodec(name="item", catalogue=CATALOGUE, history="history", max_length=2)
    assert codec.fallback("user '9' does not occur in the training data", 5)["top"] == [{"item": "b", "title": "B"}, {"item": "a", "title": "A"}]
    shown = codec.present({"top": [{"item": 4, "score": 0.5}]}, {"history": ["a", "nope"]})
    assert shown["top"] == [{"item": "d", "score": 0.5, "title": "D"}]
    assert "nope" in shown["note"]


def test_a_question_leaves_out_what_was_met() -> None:
    codec = ItemCodec(name="item", catalogue=CATALOGUE, history="history", max_length=2)
    assert codec.ask({"history": "7"})["seen"].tolist() == [1, 2, 3]  # all of it, though the model sees two
    assert codec.ask({"history": ["d", "d", "a"]})["seen"].tolist() == [1, 4]


# --- targets ----------------------------------------------------------------------------------------------------------------------


def test_classes_are_sorted_and_counted() -> None:
    codec = ClassCodec.fit("label", ["10", "9", "9", "1", "", None])
    assert (codec.spec.labels, codec.spec.counts) == (("1", "9", "10"), (1, 2, 1))
    assert codec.encode("9")["values"].item() == codec.encode(9)["values"].item() == 1
    with pytest.raises(DataError, match="'8' of 'label' does not occur"):
        codec.encode("8")
    with pytest.raises(DataError, match="two or more"):
        ClassCodec.fit("label", ["a", "a"])


@pytest.mark.parametrize("raw", ["x|z", " z | x ", '["x", "z"]', ["x", "z"], ("z", "x", "x")])
def test_several_classes_a_row(raw: object) -> None:
    codec = ClassCodec.fit("label", ["x|y", "z", ""], labelling=Labelling.MULTI)
    assert codec.spec.counts == (1, 1, 1)
    assert codec.encode(raw)["values"].tolist() == [1, 0, 1]
    assert codec.encode("")["values"].tolist() == [0, 0, 0]
    with pytest.raises(DataError):
        codec.encode("[x")


def test_numbers_to_be_told() -> None:
    codec = NumberCodec.fit("value", ["x", "y"], [("1", 2), ("3", "NA")])
    assert (codec.spec.mean, codec.spec.std) == ((2.0, 2.0), (1.0, 1.0))
    values = codec.encode(["", 5])["values"]
    assert math.isnan(values[0])
    assert values[1] == 5
    for wrong in ([1], ["a", 1], [1, "inf"]):
        with pytest.raises(DataError):
            codec.encode(wrong)


# --- state ------------------------------------------------------------------------------------------------------------------------


def everything() -> Processor:
    bpe = BpeTokenizer(vocab_size=280)
    bpe.train(["some text of some length"] * 3)
    text = TextCodec(name="text", tokenizer=bpe, max_length=9)
    pieces = WordPieceTokenizer(vocab_size=100)
    pieces.train(["some text of some length"] * 3)
    gaps = TextCodec(name="gaps", tokenizer=pieces, max_length=9)
    tokens = WordsCodec(name="tokens", tokenizer=pieces, max_length=9)
    written = WrittenCodec(name="written", tokenizer=ByteTokenizer(), max_length=9, start=Start.END)
    inputs = {
        "gaps": gaps,
        "tokens": tokens,
        "written": written,
        "image": ImageCodec(name="image", channels=3, size=(4, 6), mean=(0.1, 0.2, 0.3), std=(1.0,)),
        "text": text,
        "bytes": TextCodec(name="bytes", tokenizer=ByteTokenizer(), max_length=7),
        "audio": AudioCodec(name="audio", sample_rate=8000, n_mels=20, max_seconds=1.0, mean=-3.25, std=2.5),
        "history": HistoryCodec(name="history", catalogue=CATALOGUE, max_length=3),
        "table": table(Missing.INDICATOR),
    }
    pair = TextPairCodec(name="pair", tokenizer=pieces, max_length=12, first="question", second="context")
    inputs["pair"] = pair
    chat = DialogueCodec(name="chat", tokenizer=bpe, max_length=40)
    inputs["chat"] = chat
    targets = {
        "reply": SaidCodec(name="reply", dialogue=chat),
        "answer": AnswerCodec(name="answer", texts=pair),
        "label": ClassCodec(name="label", labels=("a", "b"), counts=(3, 4)),
        "taught": TaughtCodec(labels=ClassCodec(name="taught", labels=("a", "b"), counts=(3, 4))),
        "tags": ClassCodec(name="tags", labels=("x", "y"), labelling=Labelling.MULTI, separator=";"),
        "value": NumberCodec(name="value", columns=["v"], mean=[1.0], std=[2.0]),
        "item": ItemCodec(name="item", catalogue=CATALOGUE, history="history", max_length=3),
        "thing": PairCodec(name="thing"),
        "following": NextTokenCodec(name="following", text=text),
        "hidden": MaskedTokenCodec(name="hidden", text=gaps, share=0.3, masking=Masking.TOKENS),
        "around": ContextCodec(name="around", text=text).counted(["some text"]),
        "parts": TagCodec(name="parts", labels=("N", "V"), words=tokens),
        "next": WrittenTokenCodec(name="next", written=written),
    }
    return Processor(inputs, targets)


TALK = [{"role": "user", "content": "some"}, {"role": "assistant", "content": "text"}]
TEXTS = {"question": "some length", "context": "some text of some length"}
ROW = {
    "taught": {"label": "b", "scores": torch.tensor([1.5, -2.0])},
    "pair": TEXTS,
    "chat": TALK,
    "reply": TALK,
    "answer": {"texts": TEXTS, "answer": "text of", "start": None},
    "image": torch.full((3, 9, 9), 7, dtype=torch.uint8),
    "text": "some text",
    "bytes": "some text",
    "audio": (tone(8000, 0.3)[:, 0], 8000),
    "history": ["a", "c"],
    "table": {"x": 1, "y": None, "c": "red"},
    "label": "b",
    "tags": "x;y",
    "value": 4,
    "item": {"next": [0, 4], "seen": [1, 3]},
    "thing": "a cup",
    "following": "the cat",
    "gaps": "some [MASK] text",
    "hidden": "some [MASK] text",
    "tokens": ["some", "text"],
    "parts": {"words": ["some", "text"], "tags": ["N", "V"]},
    "written": "text",
    "next": "text",
    "around": "some text",
}


def test_a_saved_processor_prepares_alike(tmp_path: Path) -> None:
    """R18: JSON and back, for every kind of codec."""
    first = everything()
    assert {codec.kind for codec in first.inputs.values()} == set(INPUT_CODECS)
    assert {codec.kind for codec in first.targets.values()} == set(TARGET_CODECS)
    first.save(tmp_path)
    again = Processor.load(tmp_path)
    assert again.spec == first.spec
    one, two = first.batch([ROW, ROW], with_targets=True), again.batch([ROW, ROW], with_targets=True)
    own = {
        "label",
        "tags",
        "value",
        "item",
        "seen",
        "thing",
        "following",
        "bytes",
        "hidden",
        "words",
        "parts",
        "next",
        "around",
        "answer",
        "places",
        "reply",
        "taught",
        "taught_teacher",
    }
    assert set(one.targets) == own
    for name, values in one.inputs.items():
        pair = (values.values, two.inputs[name].values)
        if isinstance(pair[0], dict):
            assert isinstance(pair[1], dict)
            assert all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0])
        else:
            assert isinstance(pair[1], torch.Tensor)
            assert torch.equal(pair[0], pair[1])
    assert all(torch.equal(one.targets[name], two.targets[name]) for name in one.targets)
    asked = again.batch([{name: ROW[name] for name in first.inputs}], with_targets=False)
    assert asked.targets["seen"].tolist() == [[1, 3]]


def test_rows_that_cannot_be_prepared_are_marked() -> None:
    processor = everything()
    batch = processor.batch([ROW, {**ROW, "history": "unknown"}, {key: value for key, value in ROW.items() if key != "text"}], with_targets=True)
    assert batch.valid.tolist() == [True, False, False]
    assert "unknown" in batch.bad[0].reason
    assert "lacks text" in batch.bad[1].reason
    with pytest.raises(DataError, match="does not occur"):
        processor.batch([{**ROW, "history": "unknown"}], with_targets=True)


LATER = ("filter", "crop")
"""Keys that bundles of zoo 0.1.0 do not have."""


def corruptions(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The state with one thing wrong, in every place."""
    found = []
    for group in ("inputs", "targets"):
        for name, state in tree[group].items():
            for key in state:
                for value in ("../../etc", -7, [None], {"_target_": "os.system"}, True, None):
                    if isinstance(value, type(state[key])) and key in ("separator", "users", "first", "second", "template"):
                        continue  # any text is a separator, a column or a template
                    found.append(json.loads(json.dumps(tree)) | {group: {**tree[group], name: {**state, key: value}}})
                if key not in LATER:
                    found.append({**tree, group: {**tree[group], name: {other: entry for other, entry in state.items() if other != key}}})
            found.append({**tree, group: {**tree[group], name: {**state, "_target_": "os.system"}}})
            found.append({**tree, group: {**tree[group], f"../{name}": state}})
    return [*found, {**tree, "format": 2}, {**tree, "more": 1}, {"format": 1}]


def test_damaged_and_hostile_states_are_refused(tmp_path: Path) -> None:
    """R1, R6: one key wrong anywhere in processor.json."""
    everything().save(tmp_path)
    path = tmp_path / "processor.json"
    tree = json.loads(path.read_text())
    accepted = []
    for wrong in corruptions(tree):
        path.write_text(json.dumps(wrong))
        try:
            Processor.load(tmp_path)
        except CheckpointError:
            continue
        accepted.append(next((group, name) for group in ("inputs", "targets") for name in wrong[group] if wrong[group].get(name) != tree[group].get(name)))
        accepted[-1] += (
            {key: value for key, value in wrong[accepted[-1][0]][accepted[-1][1]].items() if value != tree[accepted[-1][0]][accepted[-1][1]].get(key)},
        )
    assert [entry for entry in accepted if entry[2] not in ({"mean": -7}, {"mean": [None]})] == []
