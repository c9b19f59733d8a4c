"""Word vectors from texts to neighbours: the shared trainer, the bundle, ``zoo predict --vectors`` and ``zoo neighbours``."""

import json
import random
from pathlib import Path

import pytest

from zoo.cli.main import main

ANIMALS = ["cat", "dog", "horse", "mouse", "sheep"]
TOOLS = ["hammer", "saw", "drill", "spade", "axe"]


def test_words_of_one_topic_become_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts are of animals or of tools; the four nearest to any word are the others of its topic."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(draw.choice((ANIMALS, TOOLS)), k=12)) for _ in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"{number} {text}"}) + "\n" for number, text in enumerate(texts)))
    words = [
        *("data=table", f"data.path={tmp_path}/rows.jsonl", "data.text=text", "data.target=text", "data.target_kind=context", "data/tokenizer=words"),
        *("model/encoder=bag_tiny", "model.encoder.ngrams=1", "model/head=skip_gram", "model.head.sample=0.0", "model.head.drawn=16", "data.batch_size=16"),
        *("optimizer.lr=0.02", "trainer.max_epochs=8", "logger=none", f"run_dir={tmp_path}/run"),
    ]
    assert main(["train", *words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["metrics"]
    assert figures["test/auc"] > 0.7
    bundle, file = f"{tmp_path}/run/bundle", f"{tmp_path}/v.npy"
    given = [word for name in [*ANIMALS, *TOOLS] for word in ("--text", name)]
    assert main(["predict", bundle, *given, "--vectors", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[3] == {"input": "mouse", "row": 3}
    assert main(["neighbours", file, "--top", "4", "--json"]) == 0
    for answer in json.loads(capsys.readouterr().out):
        topic = next(topic for topic in (ANIMALS, TOOLS) if answer["of"] in topic)
        assert {near["name"] for near in answer["neighbours"]} == set(topic) - {answer["of"]}
    assert main(["predict", bundle, "--text", "unheard"]) == 2
    assert "none of its words is in the model's vocabulary" in capsys.readouterr().out


def test_context_of_another_column_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=table", "data.path=x.jsonl", "data.text=a", "data.target=b", "data.target_kind=context", "model/encoder=bag", "model/head=skip_gram"]
    assert main(["check", *words]) == 2
    assert "target_kind=context tells the tokens of the text itself: text=a, target=b have to be one column" in capsys.readouterr().err


def test_an_encoder_that_sees_neighbours_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=table", "data.path=x.jsonl", "data.text=a", "data.target=a", "data.target_kind=context", "model/encoder=lstm", "model/head=skip_gram"]
    assert main(["check", *words]) == 2
    assert "model/encoder=bag model.encoder.ngrams=1" in capsys.readouterr().err
