"""The batch-size finder: what it tries, what it proposes, and, slowly, that it finds a real limit without dying of it."""

import json
from pathlib import Path

import pytest

from zoo.cli.batch import overrides, parse_bytes, split_memory
from zoo.cli.main import main
from zoo.compose import compose
from zoo.errors import ZooError
from zoo.training.memory import Trial, free_memory, resident, search


@pytest.mark.parametrize("room", [0, 1, 2, 3, 17, 64, 100, 1000, 5000])
@pytest.mark.parametrize("most", [1, 60, 100_000])
@pytest.mark.parametrize("first", [1, 32])
def test_search_finds_the_largest_that_fits(room: int, most: int, first: int) -> None:
    """Within 3 %, never more than there are, in a number of steps that grows with the logarithm."""
    tried = []

    def trial(samples: int) -> Trial:
        tried.append(samples)
        return Trial(samples, samples, 0.1, None if samples <= room else "over the limit")

    trials = search(trial, most, first=first)
    best = max((one.samples for one in trials if one.refused is None), default=0)
    right = min(room, most)
    assert right - max(1, right // 32) < best <= right
    assert max(tried) <= most
    assert len(tried) == len(set(tried))
    assert len(tried) <= 2 * max(right, first).bit_length() + 2


@pytest.mark.parametrize(("text", "count"), [("4GiB", 4 << 30), ("800M", 800 << 20), ("1.5 GB", 3 << 29), ("1000000", 1_000_000), ("2k", 2048)])
def test_amounts_of_memory(text: str, count: int) -> None:
    assert parse_bytes(text) == count
    assert split_memory(["a=1", "--memory", text, "--json"]) == (["a=1", "--json"], count)
    assert split_memory([f"--memory={text}"]) == ([], count)


@pytest.mark.parametrize("text", ["", "lots", "-3G", "0", "4GiBs"])
def test_no_amounts(text: str) -> None:
    with pytest.raises(ZooError, match="is no amount of memory; way out"):
        parse_bytes(text)


def test_what_it_proposes_keeps_the_numbers() -> None:
    config = compose(["data.batch_size=64", "parallel.processes=2"])
    assert overrides(config, Trial(10, 1, 0.1)) == {
        "same": ["data.batch_size=64", "trainer.accumulate=4"],
        "most": ["data.batch_size=20", "trainer.accumulate=1"],
    }
    assert overrides(config, Trial(10, 1, 0.1), whole=True) == {"same": ["data.batch_size=64", "trainer.accumulate=4"]}  # nothing of 20 rows was measured
    assert overrides(config, Trial(50, 1, 0.1), whole=True)["most"] == ["data.batch_size=100", "trainer.accumulate=1"]


def test_sharded_models_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "parallel=fsdp", "parallel.processes=2"]) == 2
    assert "not measured by one process alone" in capsys.readouterr().err


def test_what_this_machine_has() -> None:
    assert 0 < free_memory(2) <= free_memory(1) // 2 + (1 << 28)
    assert resident(0) == 0


@pytest.mark.slow
def test_a_real_limit(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children are killed at the limit, the search goes on, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    wide = ["model/encoder=cnn", "model.encoder.widths=[16,16]", "model.encoder.blocks=[2,2]", "data.image_size=32"]
    assert main(["batch", *wide, "--memory", "1300MiB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peak"] <= found["limit"] == 1300 << 20
    assert any(trial["refused"] == "over the limit" for trial in found["trials"])
    assert found["samples"] == max(trial["samples"] for trial in found["trials"] if trial["refused"] is None)
    assert not list(tmp_path.iterdir())
