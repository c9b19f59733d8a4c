"""What is written, against transformers' generate and its definitions, and with what was computed kept against without.

Models have random weights, and the tokenizer of the test of converters; what they write means nothing.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_converters import bundled
from test_seq2seq_converters import BARTS, T5S, TEXTS, saved_bart, saved_t5
from transformers import GenerationConfig
from transformers.generation import logits_process

from tests.contract.cases import randomised
from zoo.build import build_model
from zoo.config import encoder_node
from zoo.data.codecs.text import TextCodec
from zoo.data.tokenizers.byte import END, ByteTokenizer
from zoo.errors import ZooError
from zoo.inference.choosing import choose, shaped
from zoo.inference.generate import Ended, Writing, continuations, streamed
from zoo.inference.predictor import Predictor
from zoo.inference.sampling import Sampling
from zoo.inference.writers import writer_of
from zoo.model import Model
from zoo.registry import DECODERS, HEADS
from zoo.specs import DataSpec, TokenTarget

CPU = torch.device("cpu")
CODEC = TextCodec(name="text", tokenizer=ByteTokenizer(), max_length=60)
PROMPTS = [CODEC.tokenizer.prompt(text) for text in ("the cat", "a", "one big green dog on a hill", "día")]
ENCODERS: dict[str, dict[str, Any]] = {
    "GPT": {"positions": "learned"},
    "sinusoidal, post": {"positions": "sinusoidal", "placement": "post"},
    "Llama": {"positions": "rotary", "norm": "rms", "activation": "swiglu", "biases": "none", "kv_heads": 2, "heads": 4},
    "Mistral": {"positions": "rotary", "window": 5, "kv_heads": 1},
    "windows and all": {"positions": "rotary", "window": 4, "global_every": 2, "local_period": 100.0, "depth": 3},
    "relative": {"positions": "relative", "scores": "plain", "head_dim": 5},
    "none, segments": {"positions": "none", "segments": 2, "embedding_scale": "sqrt", "embedding_norm": "first"},
}


def model_of(name: str = "transformer_tiny", **options: Any) -> Model:
    causal = {"direction": "forward"} if name.startswith(("lstm", "gru")) else {"attention": "causal"}
    spec = DataSpec(inputs=(CODEC.spec,), targets=(TokenTarget(name="next", vocab_size=259),))
    from zoo.build import Nodes
    from zoo.registry import ENCODERS as REGISTERED

    encoder = REGISTERED.check_node(encoder_node(name, causal | options), "model.encoder")
    torch.manual_seed(0)
    nodes = Nodes(encoder, DECODERS.check_node({"name": "none"}, "model.decoder"), HEADS.check_node({"name": "next_token"}, "model.head"))
    model = build_model(nodes, spec)
    randomised(model)
    return model.double().eval()


@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("sampling", [Sampling(max_tokens=30), Sampling(max_tokens=30, temperature=2.0, top_p=0.9), Sampling(max_tokens=9, beams=3)], ids=str)
def test_what_is_kept_changes_nothing(options: dict[str, Any], sampling: Sampling) -> None:
    """R8: prompts of unequal lengths, beside each other and alone, with the positions kept and computed again."""
    model = model_of(**options)
    found = continuations(model, CODEC, PROMPTS, sampling, places=range(4), device=CPU)
    assert found == continuations(model, CODEC, PROMPTS, sampling, places=range(4), device=CPU, cached=False)
    assert found == [answer for place, prompt in enumerate(PROMPTS) for answer in continuations(model, CODEC, [prompt], sampling, places=[place], device=CPU)]
    if sampling.temperature:
        assert len({tuple(answer.ids) for answer in found}) == len(found), "texts that are all alike would hide a mixture"


@torch.no_grad()
@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
def test_the_scores_are_those_of_the_whole_text(options: dict[str, Any]) -> None:
    model = model_of(**options)
    writer = writer_of(model, name="text", pad=0)
    logits = [writer.begin(PROMPTS, 60)]
    tokens = torch.randint(3, 259, (20, 4))
    for step in tokens:
        logits.append(writer.step(step))
    for row, prompt in enumerate(PROMPTS):
        whole = torch.tensor([prompt + tokens[:, row].tolist()])
        hidden = model.encoder(whole).tokens
        expected = model.head.scores(hidden)[0, len(prompt) - 1 :]  # type: ignore[operator]
        torch.testing.assert_close(torch.stack([step[row] for step in logits]), expected, rtol=1e-9, atol=1e-9)


def test_models_that_keep_nothing_write_as_well() -> None:
    model = model_of("lstm_tiny")
    sampling = Sampling(max_tokens=12, temperature=1.0)
    found = continuations(model, CODEC, PROMPTS, sampling, places=range(4), device=CPU)
    alone = [continuations(model, CODEC, [prompt], sampling, places=[place], device=CPU)[0] for place, prompt in enumerate(PROMPTS)]
    assert found == alone


@pytest.mark.parametrize(
    ("option", "theirs"),
    [
        (Sampling(temperature=0.7), lambda: [logits_process.TemperatureLogitsWarper(0.7)]),
        (Sampling(temperature=1.0, top_k=5), lambda: [logits_process.TopKLogitsWarper(5)]),
        (Sampling(temperature=1.0, top_p=0.6), lambda: [logits_process.TopPLogitsWarper(0.6)]),
        (Sampling(temperature=1.0, min_p=0.1), lambda: [logits_process.MinPLogitsWarper(0.1)]),
        (
            Sampling(temperature=1.5, top_k=9, top_p=0.8, min_p=0.02, repetition_penalty=1.3),
            lambda: [
                logits_process.RepetitionPenaltyLogitsProcessor(1.3),
                logits_process.TemperatureLogitsWarper(1.5),
                logits_process.TopKLogitsWarper(9),
                logits_process.TopPLogitsWarper(0.8),
                logits_process.MinPLogitsWarper(0.02),
            ],
        ),
    ],
    ids=["temperature", "top_k", "top_p", "min_p", "all"],
)
def test_scores_are_shaped_as_transformers_does(option: Sampling, theirs: Any) -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(50, 30) * 3, torch.randint(0, 30, (50, 7))
    expected = logits
    for process in theirs():
        expected = process(ids, expected)
    seen = torch.zeros(50, 30, dtype=torch.bool).scatter_(1, ids, True)
    found = shaped(logits, option, seen if option.repetition_penalty != 1 else None)
    torch.testing.assert_close(found, expected)
    drawn = choose(logits, option, torch.rand(50), seen if option.repetition_penalty != 1 else None)
    assert bool(expected.gather(1, drawn[:, None]).isfinite().all()), "nothing is drawn that was left out"


def generate(reference: Any, fast: Any, **how: Any) -> list[list[int]]:
    given = fast(TEXTS[:4], return_tensors="pt", padding=True)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": reference.config.decoder_start_token_id}
    told = reference.generate(**given, generation_config=GenerationConfig(**ids, **how))
    return [[token for token in row[1:].tolist() if token != 1] for row in told]


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"beams": 3},
        {"beams": 4, "length_penalty": 0.3},
        {"beams": 2, "length_penalty": 2.0},
        {"repetition_penalty": 1.7},
        {"beams": 3, "repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_texts_are_transformers_own(tmp_path: Path, family: str, how: dict[str, Any]) -> None:
    """Greedy and by beams, 40 tokens of four texts of unequal lengths."""
    reference, fast = saved_t5(tmp_path / "theirs", T5S["distances"], extra=0) if family == "t5" else saved_bart(tmp_path / "theirs", BARTS["plain"])
    loaded = bundled(tmp_path / "theirs", family, tmp_path)
    reference.double()
    predictor = Predictor(model=loaded.model.double(), processor=loaded.processor, bundle=loaded.bundle, device=CPU)
    codec: Any = loaded.processor.inputs["written"]
    codec.max_length = 100
    theirs = generate(
        reference,
        fast,
        max_new_tokens=40,
        num_beams=how.get("beams", 1),
        length_penalty=how.get("length_penalty", 1.0),
        repetition_penalty=how.get("repetition_penalty", 1.0),
        do_sample=False,
        early_stopping=False,
    )
    answers = predictor.predict(TEXTS[:4], sampling=Sampling(max_tokens=40, **how))
    assert [answer["text"] for answer in answers] == fast.batch_decode(theirs, skip_special_tokens=True)
    assert [answer["ended"] for answer in answers] == ["end" if 2 in row else "length" for row in theirs]


def test_a_text_to_stop_at_ends_it_and_is_left_out() -> None:
    model = model_of(positions="rotary")
    (whole,) = continuations(model, CODEC, PROMPTS[:1], Sampling(max_tokens=30, temperature=3.0), places=[0], device=CPU)
    said = CODEC.tokenizer.decode(whole.ids)
    letter = next(letter for place, letter in enumerate(said) if place > 3 and letter not in said[:3] and letter != "\ufffd")
    sampling = Sampling(max_tokens=30, temperature=3.0, stop=(letter, "no such text"))
    (answer,) = continuations(model, CODEC, PROMPTS[:1], sampling, places=[0], device=CPU)
    assert answer.ended is Ended.STOP
    assert CODEC.tokenizer.decode(answer.ids).endswith(letter)
    writing = Writing(writer_of(model, name="text", pad=0), CODEC.tokenizer, PROMPTS[:1], sampling, limit=60, places=[0], device=CPU)
    pieces = list(streamed(writing, PROMPTS[0]))
    assert "".join(pieces) == said[: said.index(letter)]


def test_a_stream_is_the_whole_in_pieces() -> None:
    model = model_of(positions="rotary")
    sampling = Sampling(max_tokens=40, temperature=3.0)
    (whole,) = continuations(model, CODEC, PROMPTS[3:], sampling, places=[0], device=CPU)
    writing = Writing(writer_of(model, name="text", pad=0), CODEC.tokenizer, PROMPTS[3:], sampling, limit=60, places=[0], device=CPU)
    pieces = list(streamed(writing, PROMPTS[3]))
    assert len(pieces) > 3
    prompt = CODEC.tokenizer.decode(PROMPTS[3])
    assert prompt + "".join(pieces) == CODEC.tokenizer.decode([*PROMPTS[3], *whole.ids])


def test_what_would_change_nothing_is_refused() -> None:
    for wrong, said in (
        ({"top_p": 0.9}, "top_p=0.9: without a temperature"),
        ({"length_penalty": 2.0}, "length_penalty=2.0 compares beams"),
        ({"beams": 2, "temperature": 1.0}, "temperature=1.0 with beams=2"),
        ({"beams": 0}, "beams=0 follows nothing"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p=0.0 is no share"),
        ({"min_p": 1.0, "temperature": 1.0}, "min_p=1.0 is no share"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 is not above 0"),
        ({"stop": ("",)}, "stop=\\('',\\) has an empty text"),
    ):
        with pytest.raises(ZooError, match=said):
            Sampling(**wrong)  # type: ignore[arg-type]
    assert CODEC.tokenizer.end_id == END
