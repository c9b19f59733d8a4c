"""Ways out of weights that do not fit: each that is offered works, and none is offered that does not."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save_file

from zoo.build import create
from zoo.checks import check_init_prefixes
from zoo.data.codecs.label import ClassCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.errors import CheckpointError
from zoo.model import Model
from zoo.settings import RunSettings
from zoo.training.init import init_weights

CLASSIFIER = ["head.classifier.weight", "head.classifier.bias"]


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    made = BpeTokenizer(vocab_size=262)
    made.train(["the cat sat on the mat"] * 3)
    return made


def classifier(tokenizer: BpeTokenizer, labels: str, depth: int = 1, encoder: str = "transformer") -> tuple[Model, Processor]:
    text = TextCodec(name="text", tokenizer=tokenizer, max_length=12)
    processor = Processor(inputs={"text": text}, targets={"label": ClassCodec(name="label", labels=list(labels))})
    options: dict[str, Any] = {"dim": 8, "depth": depth, "heads": 2} if encoder == "transformer" else {}
    return create(encoder, spec=processor.spec, **options), processor


def bundle(folder: Path, model: Model, processor: Processor | None, part: str = "") -> str:
    """Weights as a bundle has them; of one part, or without a processor."""
    folder.mkdir()
    save_file({name: value.clone() for name, value in model.state_dict().items() if name.startswith(part)}, folder / "model.safetensors")
    if processor is not None:
        processor.save(folder / "processor")
    return str(folder)


def ways(model: Model, source: str, data: Processor, **asked: list[str]) -> list[dict[str, list[str]]]:
    """What the error offers, each as init_skip and init_fit."""
    with pytest.raises(CheckpointError) as error:
        init_weights(model, source, asked.get("skip", []), data, fit=asked.get("fit", []))
    lines = [line for line in str(error.value).splitlines() if "way out" in line]
    assert lines
    return [{key: [prefix for prefix in given.split(",") if prefix] for key, given in re.findall(r"init_(skip|fit)=\[([^\]]*)\]", line)} for line in lines]


def follow(model: Model, source: str, data: Processor, way: dict[str, list[str]]) -> Any:
    """What it says, from the check before the run on."""
    run = RunSettings(init=source, init_skip=way.get("skip", []), init_fit=way.get("fit", []))
    config: Any = SimpleNamespace(run=run)
    check_init_prefixes(config, model)
    report = init_weights(model, source, run.init_skip, data, fit=run.init_fit)
    assert report.loaded
    return report


def test_other_classes(tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    source = bundle(tmp_path / "source", *classifier(tokenizer, "abc"))
    model, data = classifier(tokenizer, "bcde")
    skip, fit = ways(model, source, data)
    assert (skip, fit) == ({"skip": ["head"]}, {"fit": CLASSIFIER})
    assert set(follow(model, source, data, skip).skipped) == set(CLASSIFIER)
    assert set(follow(model, source, data, fit).fitted) == set(CLASSIFIER)


def test_other_classes_of_which_nobody_knows_the_names(tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    source = bundle(tmp_path / "source", classifier(tokenizer, "abc")[0], None)
    model, data = classifier(tokenizer, "bcde")
    (skip,) = ways(model, source, data)
    assert skip == {"skip": ["head"]}
    assert set(follow(model, source, data, skip).skipped) == set(CLASSIFIER)


@pytest.mark.parametrize("asked", [{}, {"fit": ["head"]}])
def test_a_head_that_is_missing(tokenizer: BpeTokenizer, tmp_path: Path, asked: dict[str, list[str]]) -> None:
    source = bundle(tmp_path / "source", *classifier(tokenizer, "abc"), part="encoder")
    model, data = classifier(tokenizer, "abc")
    (skip,) = ways(model, source, data, **asked)
    assert skip == {"skip": ["head"]} | ({"fit": []} if asked else {})
    assert set(follow(model, source, data, {**asked, **skip}).skipped) == set(CLASSIFIER)


def test_layers_that_only_the_weights_have(tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    """What is theirs alone may be named in ``init_skip``; classes are fitted beside it, or left too."""
    source = bundle(tmp_path / "source", *classifier(tokenizer, "abc", depth=2))
    model, data = classifier(tokenizer, "bcde")
    skip, both = ways(model, source, data)
    assert "head" in skip["skip"]
    assert both["fit"] == CLASSIFIER
    assert all(prefix.startswith("encoder.blocks.1.") for prefix in both["skip"])
    assert set(follow(model, source, data, skip).skipped) == set(CLASSIFIER)
    report = follow(model, source, data, both)
    assert set(report.fitted) == set(CLASSIFIER)
    assert report.skipped == []


def test_what_was_asked_for_stays_in_the_lists(tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    """They replace what was typed: the old entries are in them."""
    source = bundle(tmp_path / "source", *classifier(tokenizer, "abc"))
    model, data = classifier(tokenizer, "bcde")
    for way in ways(model, source, data, skip=["encoder.positions"]):
        if "fit" in way:
            way = {"skip": ["encoder.positions"], **way}  # which stands as it was typed
        assert "encoder.positions.weight" in follow(model, source, data, way).skipped


def test_nothing_is_offered_that_would_load_nothing(tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    source = bundle(tmp_path / "source", *classifier(tokenizer, "abc", encoder="lstm"))
    model, data = classifier(tokenizer, "bcde")
    with pytest.raises(CheckpointError, match=r"init=null to start from random weights") as error:
        init_weights(model, source, [], data)
    assert "init_skip=" not in str(error.value)


def test_other_names_of_as_many_classes(tokenizer: BpeTokenizer, tmp_path: Path) -> None:
    """Sizes agree: the rows' names do not."""
    source = bundle(tmp_path / "source", *classifier(tokenizer, "abc"))
    model, data = classifier(tokenizer, "bcd")
    offered = ways(model, source, data)
    assert offered == [{"fit": CLASSIFIER}, {"skip": ["head"]}]
    for way in offered:
        follow(model, source, data, way)
