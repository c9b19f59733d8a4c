"""R22: what may change when a run goes on. Every key of the config has a class, and the message shows the difference."""

from pathlib import Path
from typing import Any

import pytest

from zoo.compose import Composer
from zoo.config import RunConfig
from zoo.errors import ConfigError
from zoo.training.resume import CHANGES, Change, accept_resume, change_of, differences


def compose(*overrides: str) -> RunConfig:
    with Composer() as composer:
        return composer.run_config(composer.compose(list(overrides)), list(overrides))


def flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    return [key for name, value in tree.items() for key in (flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"])]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    compose("schedule=constant").save(tmp_path / "config.yaml")
    return tmp_path


def test_every_key_has_a_class() -> None:
    """All keys of the trainer, of the loader and of the run by name; components' own by their group."""
    tree = compose().to_dict()
    for key in flat(tree):
        change_of(key)
    for key in flat({"trainer": tree["trainer"]}):
        assert key in CHANGES, f"{key} is classified by its group only: decide"


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("trainer.max_steps=50", Change.FREE),
        ("trainer.log_every=3", Change.FREE),
        ("trainer.accumulate=2", Change.FREE),
        ("parallel.processes=2", Change.FREE),
        ("data.workers=2", Change.FREE),
        ("logger=tensorboard", Change.FREE),
        ("seed=1", Change.ASKED),
        ("optimizer.lr=0.5", Change.ASKED),
        ("trainer.clip_norm=null", Change.ASKED),
        ("trainer.precision=bf16", Change.ASKED),
        ("trainer.ema=0.9", Change.ASKED),
        ("trainer.eval_every=3", Change.ASKED),
        ("trainer.device=cpu", Change.ASKED),
        ("trainer.compile=true", Change.ASKED),
        ("schedule=cosine", Change.ASKED),
        ("callback=early_stopping", Change.ASKED),
        ("optimizer=sgd", Change.FIXED),
        ("data.batch_size=8", Change.FIXED),
        ("data.batch_pixels=800", Change.FIXED),
        ("data.packing=flat", Change.ASKED),
        ("model/encoder=mlp_tiny", Change.FIXED),
        ("data.image_size=16", Change.ASKED),
    ],
)
def test_changes(run: Path, override: str, change: Change) -> None:
    """R22."""
    config = compose("schedule=constant", override)
    key = next(iter(sorted(differences(RunConfig.load(run / "config.yaml"), config), key=lambda key: [*Change].index(change_of(key)), reverse=True)))
    assert change_of(key) is change
    if change is Change.FREE:
        accept_resume(config, run)
        assert RunConfig.load(run / "config.yaml") == config
        return
    with pytest.raises(ConfigError) as error:
        accept_resume(config, run)
    old, new = differences(compose("schedule=constant"), config)[key]
    assert f"{key}: {old} -> {new}" in str(error.value)
    if change is Change.FIXED:
        assert "cannot change" in str(error.value)
        assert "zoo train rerun=" in str(error.value)
        return
    allowed = sorted(differences(compose("schedule=constant"), config))
    accept_resume(compose("schedule=constant", override, f"allow=[{','.join(allowed)}]"), run)


def test_the_length_matters_to_schedules_that_see_it(tmp_path: Path) -> None:
    """R22: a cosine over more steps is another curve; a constant rate is not."""
    compose().save(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"trainer.max_epochs: \d+ -> 77"):
        accept_resume(compose("trainer.max_epochs=77"), tmp_path)
    accept_resume(compose("trainer.max_epochs=77", "allow=[trainer.max_epochs]"), tmp_path)


@pytest.mark.parametrize("override", ["trainer.accumulate=2", "parallel.processes=2"])
def test_the_split_of_a_batch_matters_to_statistics_of_its_parts(tmp_path: Path, override: str) -> None:
    """R3, R22: with batch_statistics=local the numbers depend on how a batch is split."""
    begun = ["schedule=constant", "trainer.batch_statistics=local"]
    compose(*begun).save(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=override.replace("=", ": 1 -> ")):
        accept_resume(compose(*begun, override), tmp_path)
    accept_resume(compose(*begun, override, f"allow=[{override.partition('=')[0]}]"), tmp_path)


def test_a_run_past_its_new_end_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    """R22: it would pass for a finished one."""
    compose("schedule=constant", "trainer.max_steps=100").save(tmp_path / "config.yaml")
    (tmp_path / "checkpoints" / "step_00000100").mkdir(parents=True)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"has done 100 steps, and this would end it after 60\n.*trainer.max_steps=100 or more"):
        accept_resume(compose("schedule=constant", "trainer.max_steps=60"), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == before
    accept_resume(compose("schedule=constant", "trainer.max_steps=100"), tmp_path)
