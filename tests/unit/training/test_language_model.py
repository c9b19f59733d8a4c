"""A language model from a table of texts to continuations, against torchmetrics, transformers' loss and counting by hand."""

import json
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchmetrics.text import Perplexity

from zoo.build import create
from zoo.config import RunConfig
from zoo.data.codecs.text import TextCodec
from zoo.data.codecs.token import NextTokenCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.byte import ByteTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.errors import CheckpointError, ConfigError, DataError, ZooError
from zoo.heads.next_token import NextTokenHead
from zoo.inference.choosing import choose
from zoo.inference.evaluate import evaluate_bundle
from zoo.inference.predictor import Predictor
from zoo.inference.sampling import Sampling
from zoo.model import Model
from zoo.random import SampleRandom
from zoo.specs import FeatureSpec, Layout, TokenTarget
from zoo.structs import Features
from zoo.training.init import init_weights
from zoo.training.job import run_job

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def config(folder: Path, **changes: Any) -> RunConfig:
    """Pieces of the alphabet, each of them closed after its z: every letter but the first tells the next one."""
    rows = [{"text": ALPHABET[start:], "split": ("train", "train", "train", "validation", "test")[number]} for start in range(20) for number in range(5)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"name": "table", "path": str(folder / "rows.jsonl"), "text": "text", "target": "text", "target_kind": "next_token", "split_column": "split"}
    encoder = {"name": "transformer", "dim": 32, "depth": 1, "heads": 2, "attention": "causal", "positions": "rotary", "dropout": 0.0}
    return RunConfig.from_dict(
        {
            "name": "letters",
            "data": data | {"tokenizer": {"name": "byte"}, "max_length": 40, "batch_size": 20, "augment": {}} | changes.pop("data", {}),
            "model": {"encoder": encoder | changes.pop("encoder", {}), "decoder": {"name": "none"}, "head": {"name": "next_token"}},
            "optimizer": {"name": "adamw", "lr": 0.01},
            "schedule": {"name": "constant"},
            "trainer": {"max_epochs": None, "max_steps": 80, "device": "cpu"} | changes,
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("letters")
    run_job(config(folder), folder / "run")
    return folder / "run"


def test_learns_is_measured_and_goes_on(run: Path) -> None:
    """R7, R18: the alphabet is certain but for its first letter, of which there are 20 kinds; figures are the same in any batch."""
    figures = json.loads((run / "result.json").read_text())["metrics"]
    letters = sum(26 - start for start in range(20))
    assert figures["test/accuracy"] > 0.9
    nats = log(figures["test/perplexity"]) * (letters + 20)  # every letter, and 20 ends
    assert nats == pytest.approx(figures["test/loss"] * (letters + 20), rel=1e-6)
    assert figures["test/bits_per_byte"] == pytest.approx(nats / log(2) / letters, rel=1e-6)
    again = evaluate_bundle(run, overrides=["data.eval_batch_size=3"]).evaluation.figures
    assert again == {name: pytest.approx(value, rel=1e-5) for name, value in figures.items() if name.startswith("test/")}
    answers = Predictor.load(run).predict(["hijk", "s", "abcdefghijklmnop"])
    assert [answer["continuation"] for answer in answers] == ["lmnopqrstuvwxyz", "tuvwxyz", "qrstuvwxyz"]
    assert {answer["ended"] for answer in answers} == {"end"}
    assert [answer["tokens"] for answer in answers] == [15, 7, 10]


def test_a_continuation_depends_on_nothing_but_its_text_and_place(run: Path) -> None:
    """R8: alone, beside shorter and longer ones, in any batch; greedy is what one pass over the whole text finds likeliest at each place."""
    predictor = Predictor.load(run)
    texts = ["a", "fgh", "no such text", "abcdefghijklmnopqrstu", ""]
    drawn = {"max_tokens": 9, "temperature": 1.5, "seed": 3}
    together = predictor.predict(texts, **drawn)
    assert predictor.predict(texts, batch_size=2, **drawn) == together
    assert predictor.predict(texts, **drawn | {"seed": 4}) != together
    greedy = predictor.predict(texts, max_tokens=9)
    assert greedy == [answer for text in texts for answer in predictor.predict([text], max_tokens=9)]
    codec = predictor.processor.inputs["text"]
    for text, answer in zip(texts, greedy, strict=True):
        whole = ByteTokenizer().encode(text + answer["continuation"])
        with torch.inference_mode():
            logits = predictor.model(predictor.processor.batch([{"text": text + answer["continuation"]}], with_targets=False).inputs)["logits"][0]
        likeliest = logits.argmax(dim=-1).tolist()
        begin = len(ByteTokenizer().prompt(text))
        told = len(whole) if answer["ended"] == "end" else len(whole) - 1
        assert likeliest[begin - 1 : told - 1] == whole[begin:told]
    assert codec.max_length == 40


def test_the_models_length_ends_it_and_longer_texts_lose_their_beginning(run: Path) -> None:
    predictor = Predictor.load(run)
    for more in ({}, {"temperature": 0.0}, {"temperature": 0}):
        with pytest.raises(ZooError, match=r"(?s)^seed=3: without a temperature above 0 .*nothing is drawn.*way out: predict with temperature=0.7, seed=3"):
            predictor.predict(["abc"], seed=3, **more)
    (answer,) = predictor.predict(["b" * 30], max_tokens=10**15, temperature=50.0)  # what cannot be written takes no memory
    assert answer["tokens"] <= 40 - 31
    (answer,) = predictor.predict(["x" * 500 + "hijklmnopqr"], max_tokens=8)
    assert answer["continuation"] == "stuvwxyz"
    assert "its beginning was left out" in answer["note"]
    for wrong, message in (({"max_tokens": 0}, "^max_tokens=0 leaves nothing"), ({"temperature": -1.0}, r"^temperature=-1.0 is not 0 .* or more")):
        with pytest.raises(ZooError, match=message):
            predictor.predict(["a"], **wrong)  # type: ignore[arg-type]


def test_what_is_drawn_has_the_models_distribution() -> None:
    logits = torch.tensor([2.0, 0.0, -torch.inf, 1.0, -3.0])
    for temperature in (0.5, 1.0, 2.0):
        places = torch.arange(40_000)
        drawn = choose(logits.expand(len(places), -1), Sampling(temperature=temperature), SampleRandom(0, 0, places).uniform("continuation", 1)[:, 0])
        shares = torch.bincount(drawn, minlength=5) / len(places)
        torch.testing.assert_close(shares, (logits / temperature).softmax(dim=0), atol=0.01, rtol=0)
        assert shares[2] == 0


def test_figures_are_torchmetrics_and_the_loss_transformers() -> None:
    from transformers.loss.loss_utils import ForCausalLMLoss

    torch.manual_seed(0)
    head = NextTokenHead(features=FeatureSpec(dim=8, layout=Layout.SEQUENCE, causal=True), target=TokenTarget(name="next", vocab_size=11)).eval()
    tokens = torch.randn(3, 6, 8)
    mask = torch.arange(6) < torch.tensor([6, 3, 4])[:, None]
    ids = torch.randint(0, 11, (3, 6))
    following = torch.cat([ids[:, 1:], torch.full((3, 1), -1)], dim=1)
    following = following.masked_fill(torch.arange(6) >= torch.tensor([5, 2, 3])[:, None], -1)
    targets, valid = {"next": following, "bytes": torch.tensor([[9], [4], [-1]])}, torch.tensor([True, True, False])
    prediction = head(Features(tokens=tokens, mask=mask))
    theirs = Perplexity(ignore_index=-1)
    theirs.update(prediction["logits"][:2], following[:2])
    ours = head.metrics()
    ours.update(prediction, targets, valid)
    figures = ours.compute()
    assert figures["perplexity"] == pytest.approx(float(theirs.compute()), rel=1e-6)
    assert figures["bits_per_byte"] == pytest.approx(7 * log(figures["perplexity"]) / log(2) / 13)
    many = head.metrics()
    generator = torch.Generator().manual_seed(1)
    drawn = [(torch.randn(40, 6, 11, generator=generator), torch.randint(1, 30, (40, 1), generator=generator)) for _ in range(50)]
    wanted = torch.randint(0, 11, (40, 6), generator=generator)
    pairs = torch.stack([F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(40, 6).sum(1) for logits, _ in drawn]).flatten()
    for logits, size in drawn:
        many.update({"logits": logits, "last": torch.full((40,), 5)}, {"next": wanted, "bytes": size}, torch.ones(40, dtype=torch.bool))
    sizes = torch.cat([size[:, 0] for _, size in drawn])
    again = torch.randint(0, 2000, (1000, 2000), generator=generator)  # the bootstrap (Efron, 1979)
    spread = (pairs[again].sum(1) / sizes[again].sum(1) / log(2)).std()
    assert many.tables()["standard_error"]["bits_per_byte"] == pytest.approx(float(spread), rel=0.1)
    assert many.tables()["standard_error"]["texts"] == 2000
    labels = ids[:2].masked_fill(~mask[:2], -100)
    expected = ForCausalLMLoss(prediction["logits"][:2], labels, vocab_size=11)
    for training in (False, True):
        head.train(training)
        term = head.loss(head(Features(tokens=tokens, mask=mask)), targets, valid)["next_token"]
        torch.testing.assert_close(term.sum / term.count, expected)
    assert exp(float(expected.detach())) == pytest.approx(figures["perplexity"], rel=1e-5)


def test_targets_are_the_texts_own_tokens_and_a_cut_text_does_not_end() -> None:
    text = TextCodec(name="text", tokenizer=ByteTokenizer(), max_length=8)
    codec = NextTokenCodec(name="next", text=text)
    short, long = codec.encode("héy"), codec.encode("abcdefghij")
    ids = text.encode("héy")["values"].tolist()
    assert short["values"].tolist() == [*ids[1:], -1]
    assert short["bytes"].tolist() == [4]
    cut = text.encode("abcdefghij")["values"].tolist()
    assert long["values"].tolist() == [*cut[1:7], -1, -1]  # six letters, and not the closing token, which only the cut put there
    assert long["bytes"].tolist() == [6]
    assert codec.encode("héy")["values"].tolist() == short["values"].tolist()
    for nothing in ("", None, 3):
        with pytest.raises(DataError, match="no token to tell"):
            codec.encode(nothing)


def asked(codec: NextTokenCodec, text: str) -> tuple[int, int]:
    """How many tokens are asked for, and the bytes they are told to hold."""
    target = codec.encode(text)
    return int((target["values"] >= 0).sum()), int(target["bytes"])


def test_bytes_are_those_of_the_tokens_that_are_asked_for() -> None:
    """A cut inside a character; a text that just fits ends where it ends."""
    codec = NextTokenCodec(name="next", text=TextCodec(name="text", tokenizer=ByteTokenizer(), max_length=10))
    assert [asked(codec, text) for text in ("日本語日本語", "aяяяяяяяя", "abcdefghi")] == [(8, 8)] * 3
    assert asked(codec, "abcdefgh") == (9, 8)  # the end too
    for size in (259, 276):  # without merges a token is a byte
        tokenizer = BpeTokenizer(vocab_size=size, lowercase=True)
        tokenizer.train(["the cat, the cat, 日本語 日本語"] * 3)
        for text in ("The cat 日本語 яяя 😀", "日日本語本 語 the Cat"):
            count = len(tokenizer.encode(text))
            for length in range(3, count):
                codec = NextTokenCodec(name="next", text=TextCodec(name="text", tokenizer=tokenizer, max_length=length))
                tokens, found = asked(codec, text)
                told = tokenizer.decode(tokenizer.encode(text, length))
                assert tokens == length - 2
                if size == 259:
                    assert found == tokens
                elif "\ufffd" not in told:
                    assert found == len(told.encode())
                assert tokens <= found < len(text.encode())
            codec = NextTokenCodec(name="next", text=TextCodec(name="text", tokenizer=tokenizer, max_length=count))
            assert asked(codec, text) == (count - 1, len(text.encode()))


def test_bytes_of_tokens_of_characters() -> None:
    """WordPiece drops spaces and accents: what lies before the end of the last token counts, as it is in the text."""
    tokenizer = WordPieceTokenizer(vocab_size=120)
    tokenizer.train(["the cat sat naive"] * 3)
    text = "the cat 日本  naïve the "
    assert tokenizer.encode(text) == [2, *(tokenizer.library.token_to_id(word) for word in ("the", "cat", "[UNK]", "[UNK]", "naive", "the")), 3]
    ends = [len(part.encode()) for part in ("the", "the cat", "the cat 日", "the cat 日本", "the cat 日本  naïve")]
    assert [tokenizer.cut_at(text, length) for length in range(3, 9)] == [*ends, None]


# --- other vocabularies -------------------------------------------------------------------------------------------------------------


WIDTH = 268
"""Of the model: as large as the smaller vocabulary."""
Published = tuple[Path, BpeTokenizer, dict[str, torch.Tensor]]


def bpe(folder: Path, text: str, size: int = 268) -> BpeTokenizer:
    tokenizer = BpeTokenizer(vocab_size=size)
    tokenizer.train([text] * 3)
    tokenizer.save(folder)
    return tokenizer


def language_model(tokenizer: BpeTokenizer, *, dim: int = 24) -> tuple[Model, Processor]:
    text = TextCodec(name="text", tokenizer=tokenizer, max_length=12)
    processor = Processor(inputs={"text": text}, targets={"next": NextTokenCodec(name="next", text=text)})
    model = create("transformer", spec=processor.spec, head="next_token", dim=dim, depth=1, heads=2, attention="causal", positions="rotary")
    return model, processor


@pytest.fixture
def published_model(tmp_path: Path) -> Published:
    """Weights and their processor, as a bundle keeps them; as wide as its vocabulary is large."""
    tokenizer = bpe(tmp_path / "first", "the cat sat on the mat")
    model, processor = language_model(tokenizer, dim=WIDTH)
    processor.save(tmp_path / "bundle" / "processor")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "bundle" / "model.safetensors")
    return tmp_path / "bundle", tokenizer, state


FITTING = ["encoder.embedding", "head"]
EMBEDDING, OUTPUT = "encoder.embedding.weight", "head.output.weight"


@pytest.mark.parametrize(("fit", "size"), [(FITTING, 268), (["encoder", "head"], 268), (FITTING, 280)])
def test_rows_of_both_ends_follow_their_entries(published_model: Published, tmp_path: Path, fit: list[str], size: int) -> None:
    """Another tokenizer of the same size, and a larger one: what both know keeps its rows, wherever they stand; what is new begins with the mean."""
    bundle, before, state = published_model
    now = bpe(tmp_path / "second", "a dog ran off with the cat that sat down there", size)
    old, new = before.library.get_vocab(), now.library.get_vocab()
    assert len(new) == size
    assert any(old[entry] != new[entry] for entry in old.keys() & new.keys())
    model, data = language_model(now, dim=WIDTH)
    report = init_weights(model, str(bundle), [], data, fit=fit)
    assert report.fitted.keys() == {EMBEDDING, OUTPUT}
    for name in (EMBEDDING, OUTPUT):
        rows = model.state_dict()[name]
        for entry, row in new.items():
            torch.testing.assert_close(rows[row], state[name][old[entry]] if entry in old else state[name].mean(dim=0))


@pytest.mark.parametrize(
    ("skip", "fit", "told", "silent"),
    [
        ([], [], [EMBEDDING, OUTPUT], []),
        (["encoder"], [], [OUTPUT], [EMBEDDING]),
        ([], ["encoder"], [OUTPUT], [f"which {EMBEDDING}"]),
        (["head"], [], [EMBEDDING], [OUTPUT]),
    ],
)
def test_rows_are_not_taken_over_under_other_tokens(
    published_model: Published, tmp_path: Path, skip: list[str], fit: list[str], told: list[str], silent: list[str]
) -> None:
    """Sizes agree; the ways out that are named work. As wide as the vocabulary is large: only tensors with a row an entry are named."""
    bundle, _, _ = published_model
    now = bpe(tmp_path / "second", "a dog ran off with the hat")
    model, data = language_model(now, dim=WIDTH)
    with pytest.raises(CheckpointError, match=r"input text: tokenizer\.json") as error:
        init_weights(model, str(bundle), skip, data, fit=fit)
    assert all(name in str(error.value) for name in told)
    assert not any(name in str(error.value) for name in silent)
    assert ".blocks." not in str(error.value)
    assert "data.tokenizer.path=" in str(error.value)
    named = str(error.value).split("init_fit=[")[1].split("]")[0].split(",")
    assert init_weights(model, str(bundle), skip, data, fit=named).fitted
    if fit:
        named = str(error.value).split("init_skip=[")[1].split("]")[0].split(",")
        report = init_weights(model, str(bundle), named, data, fit=fit)
        assert report.skipped
        assert report.loaded
    else:
        assert "init_skip=[" not in str(error.value)  # both parts: nothing would be taken over


def test_a_head_of_another_size_is_told(published_model: Published, tmp_path: Path) -> None:
    bundle, _, _ = published_model
    model, data = language_model(bpe(tmp_path / "second", "a dog ran off with the cat that sat down there", 280), dim=WIDTH)
    with pytest.raises(CheckpointError, match=r"(?s)other shape: head\.output\.weight.*init_fit=\[encoder,head\.output\.weight\]"):
        init_weights(model, str(bundle), [], data, fit=["encoder"])


# --- texts --------------------------------------------------------------------------------------------------------------------------


def test_prompts_are_what_encoding_gives_without_the_end() -> None:
    tokenizer = BpeTokenizer(vocab_size=300)
    tokenizer.train(["the cat sat on the mat"] * 3)
    assert tokenizer.prompt("the cat") == tokenizer.encode("the cat")[:-1]
    assert tokenizer.end_id == tokenizer.encode("the cat")[-1]
    assert tokenizer.decode(tokenizer.prompt("the cat")) == "the cat"


def test_refused_beforehand(tmp_path: Path) -> None:
    """Positions that see what they have to tell; another column's text; a bundle whose target follows no text."""
    from zoo.checks import check

    with pytest.raises(ConfigError, match="attention=causal"):
        check(config(tmp_path, encoder={"attention": "bidirectional"}))
    with pytest.raises(ConfigError, match="have to be one column"):
        check(config(tmp_path, data={"target": "split"}))
    with pytest.raises(CheckpointError, match="no text among the inputs"):
        NextTokenCodec.from_state("next", {"text": "story"}, tmp_path).connect({})


def test_a_bundle_finds_its_text_again(run: Path) -> None:
    processor = Processor.load(run / "bundle" / "processor")
    assert processor.spec.target("next") == TokenTarget(name="next", vocab_size=259)
    assert "text-generation" in (run / "bundle" / "README.md").read_text()
