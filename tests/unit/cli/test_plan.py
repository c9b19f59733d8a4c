"""zoo plan as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.cli.main import main
from zoo.presets import conf_dir

WITHOUT_BLOCKS = ("bible_words", "brown_genre", "movie_distilled", "sentiment_bag", "sentiment_text_cnn")
"""Experiments whose models have nothing to compute again."""
H100 = ("--device", "h100")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


EXPERIMENTS = sorted(file.stem for file in Path(str(conf_dir() / "experiment")).glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_planned(experiment: str, capsys: pytest.CaptureFixture[str]) -> None:
    recomputed = "none" if experiment in WITHOUT_BLOCKS else "full"
    tree = told(capsys, f"experiment={experiment}", *H100, "--world", "4", "--strategy", "fsdp", "--precision", "bf16", "--checkpoint", recomputed)
    assert tree["fits"]
    assert tree["layout"] == {"strategy": "fsdp", "world": 4, "data": 4, "shard": 4, "replicate": 1, "tensor": 1}
    assert tree["memory_bytes"]["parameters"] * 4 == pytest.approx(tree["parameters"] * 4, rel=0.2)  # buffers are whole on every device
    assert sum(tree["seconds_by_part"].values()) == pytest.approx(tree["seconds"])
    assert tree["samples_per_second"] * tree["seconds"] == pytest.approx(tree["batch"])


def test_flops_are_three_times_those_of_show(capsys: pytest.CaptureFixture[str]) -> None:
    """Backward takes twice forward, but for the gradient of the images, which nobody needs."""
    words = ("model/encoder=vit_tiny", "data=fashion_mnist")
    assert main(["show", *words, "--json"]) == 0
    forward = json.loads(capsys.readouterr().out)["flops_per_sample"]
    tree = told(capsys, *words, *H100)
    assert 2.8 * forward < tree["flops_per_sample"] <= 3 * forward
    assert tree["comparison"] is None
    assert tree["tokens_per_second"] is None


def test_the_text_and_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model/encoder=mlp_tiny", "--sources", *H100, "--world", "2"]) == 0
    text = capsys.readouterr().out
    for words in ("memory of a device", "all_reduce of gradients", "samples a second", "MFU", "data sheet", "FITTED", "--world 2 --strategy ddp"):
        assert words in text


def test_values_come_from_the_config_where_no_option_gives_them(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("data.batch_size=48", "trainer.accumulate=3", "parallel.processes=2", "trainer.precision=bf16", "trainer.compile=true")
    tree = told(capsys, "model/encoder=mlp_tiny", *given, *H100)
    assert (tree["batch"], tree["accumulate"], tree["layout"]["world"], tree["precision"], tree["compile"], tree["micro_batch"]) == (48, 3, 2, "bf16", True, 8)
    assert told(capsys, "model/encoder=mlp_tiny", *given, *H100, "--batch", "96")["micro_batch"] == 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "h10"], ["--device", "did you mean 'h100'?"]),
        ([*H100, "--world", "4", "--tp", "4", "model/encoder=vit_tiny"], ["--tp", "2 heads", "--tp 1|2"]),
        ([*H100, "--world", "200"], ["--batch", "200 or more"]),
        ([*H100, "--target", "speed=3"], ["--target", "tokens_per_second"]),
        ([*H100, "--strategy", "fdsp"], ["fdsp", "--help"]),
        ([*H100, "--sequence", "9"], ["--sequence", "no sequences"]),
        ([*H100, "--world", "0"], ["--world", "1 or more"]),
        ([*H100, "--checkpoint", "full", "model/encoder=mlp_tiny"], ["--checkpoint", "no repeated blocks"]),
    ],
)
def test_mistakes_are_the_users(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert "Traceback" not in message


def test_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    tree = told(capsys, "model/encoder=mlp_tiny", *H100, "--world", "4", "--target", "samples_per_second=1000")
    assert tree["samples_per_second"] >= 1000
    assert tree["layout"]["world"] == 1


def test_too_large_is_an_error_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "model/encoder=vit_tiny", "model.encoder.dim=512", "model.encoder.depth=8", *H100, "--batch", "60000", "--json"]
    assert main(words) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "too many" in error["message"]
    assert "--accumulate" in error["ways_out"][0]
