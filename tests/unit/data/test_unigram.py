"""Unigram: SentencePiece's own segmentation of the same pieces, texts that come back, T5's published layout."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from zoo.data.tokenizers.unigram import BYTES, UnigramTokenizer
from zoo.hub.convert.snapshot import Snapshot
from zoo.hub.convert.tokenizer import tokenizer_of, write_tokenizer

TEXTS = [
    "In the beginning, God created the heavens and the earth.",
    "The earth was formless and empty. Darkness was on the surface of the deep.",
    "God called the light “day”, and the darkness he called “night”.",
    "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs",
] * 8


@pytest.fixture(scope="module")
def tokenizer() -> UnigramTokenizer:
    found = UnigramTokenizer(vocab_size=420)
    found.train(TEXTS)
    return found


def test_segments_are_sentencepieces(tokenizer: UnigramTokenizer) -> None:
    """The best path through the same pieces with the same scores, by the library that the paper's author wrote."""
    vocabulary = json.loads(tokenizer.library.to_str())["model"]["vocab"]
    model, scores = sentencepiece_of(vocabulary), dict(vocabulary)
    same = 0
    for text in [*TEXTS[:4], "darkness light deeply empty", "a dog", "foxes boxed the heaven"]:
        theirs = model.encode(text, out_type=str)
        mine = tokenizer.library.encode(text, add_special_tokens=False).tokens
        assert "".join(mine) == "".join(theirs)
        assert sum(scores[piece] for piece in mine) == pytest.approx(sum(scores[piece] for piece in theirs), abs=1e-4)  # there may be two best paths
        same += mine == theirs
    assert same >= 4


def sentencepiece_of(vocabulary: list[tuple[str, float]]) -> Any:
    from sentencepiece import sentencepiece_model_pb2 as proto

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=trained, vocab_size=60, model_type="unigram", minloglevel=2)
    model = proto.ModelProto()
    model.ParseFromString(trained.getvalue())
    del model.pieces[:]
    kinds = {"<unk>": 2, "<pad>": 3, "</s>": 3} | dict.fromkeys(BYTES, 6)
    for piece, score in vocabulary:
        model.pieces.add(piece=piece, score=score, type=kinds.get(piece, 1))
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(vocabulary)
    model.trainer_spec.unk_id, model.trainer_spec.pad_id, model.trainer_spec.eos_id, model.trainer_spec.bos_id = 2, 0, 1, -1
    found = sentencepiece.SentencePieceProcessor()
    found.LoadFromSerializedProto(model.SerializeToString())
    return found


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="▁")))
def test_what_is_normal_comes_back(tokenizer: UnigramTokenizer, text: str) -> None:
    normal = tokenizer.library.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer.encode(text)) == normal.removeprefix(" ")
    assert tokenizer.library.token_to_id("<unk>") not in tokenizer.encode(text)


def test_ends_places_and_cuts(tokenizer: UnigramTokenizer, tmp_path: Path) -> None:
    ids = tokenizer.encode(TEXTS[0])
    assert (ids[-1], tokenizer.end_id, tokenizer.begin_id, tokenizer.pad_id) == (1, 1, None, 0)
    assert tokenizer.prompt(TEXTS[0]) == ids[:-1]
    assert tokenizer.encode(TEXTS[0], 5) == [*ids[:4], 1]
    offsets = tokenizer.offsets(TEXTS[0])
    told = zip(offsets[:-1], tokenizer.library.encode(TEXTS[0]).tokens[:-1], strict=True)
    assert all(TEXTS[0][start:end].strip() == piece.strip("▁") for (start, end), piece in told if piece != "▁")
    cut = tokenizer.cut_at(TEXTS[0], 5)
    assert cut is not None
    assert tokenizer.decode(tokenizer.encode(TEXTS[0], 5)).strip() == TEXTS[0][:cut].strip()
    again = UnigramTokenizer(vocab_size=420)
    again.train(TEXTS)
    assert again.library.to_str() == tokenizer.library.to_str()
    tokenizer.save(tmp_path)
    assert UnigramTokenizer.load(tmp_path).encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
    assert tokenizer.vocab_size <= 420
    assert tokenizer.encode("") == [1]
    with pytest.raises(ValueError, match="vocab_size=299"):
        UnigramTokenizer(vocab_size=299)


def test_t5s_published_layout_goes_and_comes_back(tmp_path: Path) -> None:
    """Unigram with Metaspace, NFKC, `$A </s>` and sentinels, as T5's tokenizer.json is; identifiers are transformers'."""
    from transformers import T5TokenizerFast

    library = Library(models.Unigram())
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    library.decoder = decoders.Metaspace()
    library.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False)
    )
    library.add_special_tokens([AddedToken(f"<extra_id_{number}>", special=True) for number in range(5)])
    library.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    (tmp_path / "theirs").mkdir()
    library.save(str(tmp_path / "theirs" / "tokenizer.json"))
    found = tokenizer_of(Snapshot(tmp_path / "theirs", "theirs"))
    assert isinstance(found, UnigramTokenizer)
    fast = T5TokenizerFast(tokenizer_object=library, extra_ids=5)
    asked = [*TEXTS[:4], "The <extra_id_0> was <extra_id_1> deep", "ß 日本"]
    for text in asked:
        assert found.encode(text) == fast(text)["input_ids"]
        assert found.decode(found.encode(text)) == fast.decode(fast(text)["input_ids"], skip_special_tokens=True)
    (tmp_path / "ours").mkdir()
    write_tokenizer(tmp_path / "ours", found, 64)
    again = tokenizer_of(Snapshot(tmp_path / "ours", "ours"))
    assert [again.encode(text) for text in asked] == [found.encode(text) for text in asked]
