"""Cross-component checks: each refuses its own mistake, with both numbers and the ways out."""

import pytest
import torch
from torch import nn

from zoo.build import build_dataset, build_model
from zoo.checks import check, check_batch_statistics, check_features, check_opened
from zoo.cli.composed import measure, text_of_model
from zoo.compose import compose
from zoo.errors import ConfigError
from zoo.specs import ClassTarget, DataSpec, FeatureSpec, Layout
from zoo.structs import Features

MLP = ["model/encoder=mlp", "model.encoder.dims=[32]"]


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (["data.batch_size=3", "trainer.accumulate=2", "parallel.processes=2"], "data.batch_size", "3 samples of a step cannot be split into 4 parts"),
        (["schedule.warmup_steps=10", "trainer.max_steps=10"], "schedule.warmup_steps", "10 leaves nothing of a run of trainer.max_steps=10"),
        (["init_skip=[head]"], "init_skip", "init does not name"),
        (["trainer.monitor=accuracy"], "trainer.monitor", "trainer.monitor=validation/accuracy"),
        (["trainer.monitor=validation/acuracy"], "trainer.monitor", "did you mean 'validation/accuracy'"),
        (["trainer.monitor=validation/loss"], "trainer.monitor", "trainer.monitor_mode=min"),
        (["trainer.monitor_mode=min"], "trainer.monitor_mode", "trainer.monitor names none"),
        (["data/augment=[spec_augment]"], "data.augment.spec_augment", "changes spectrogram inputs, but the data gives image"),
        (["model/encoder=transformer"], "model.encoder", "takes TokenInput, but the data gives image"),
        (["model/head=regression"], "model.head", "classification"),
        (["model/encoder=vit", "model.encoder.patch_size=5"], "model.encoder", "divisors of both: 1, 2, 4, 8"),
        (["init=/does/not/exist"], "init", "there is no such folder"),
        (["init=x", "init_skip=[haed]"], "init_skip[0]", "did you mean 'head'?"),
        (["optimizer.lr=-1"], "optimizer", "Invalid learning rate"),
        (["trainer.device=abacus"], "trainer.device", "trainer.device=cpu"),
    ],
)
def test_refused(overrides: list[str], path: str, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        check(compose(overrides))
    assert told.value.path == path
    assert message in str(told.value)
    assert "way out" in str(told.value)


TOP = ["trainer.monitor=validation/top5_accuracy", "trainer.monitor_mode=max"]


def test_stand_ins_refuse_nothing_that_the_data_may_allow() -> None:
    """Counts and class lists that come from the data are not known to a sketch."""
    assert check(compose(["data=digits", "model.head.class_weights=balanced"])).spec.targets[0] == build_dataset(compose(["data=digits"])).sketch().targets[0]
    report = check(compose(["data=image_folder", "data.root=nowhere", *TOP]))
    assert "top5_accuracy" in report.metrics


def test_what_stand_ins_waived_is_asked_again() -> None:
    config = compose(["data=image_folder", "data.root=nowhere", *TOP])
    inputs = check(config).spec.inputs
    opened = [DataSpec(inputs=inputs, targets=(ClassTarget(name="label", labels=tuple(labels)),)) for labels in ("abcdefg", "abcd")]
    check_opened(config, opened[0])
    with pytest.raises(ConfigError, match="measures no 'validation/top5_accuracy'"):
        check_opened(config, opened[1])
    check_opened(compose([]), opened[1])
    with torch.device("meta"), pytest.raises(ConfigError, match="the data gives 0"):
        build_model(compose(["model.head.class_weights=balanced"]), opened[1])


def test_batch_statistics() -> None:
    class Normed(nn.Sequential):
        pass

    model = Normed(nn.Linear(2, 2), nn.BatchNorm1d(2))
    split = compose(["trainer.accumulate=2"])
    with pytest.raises(ConfigError, match=r"the first is 1\) take statistics over a batch") as told:
        check_batch_statistics(split, model)  # type: ignore[arg-type]
    assert len(told.value.ways_out) == 3
    check_batch_statistics(compose([]), model)  # type: ignore[arg-type]
    check_batch_statistics(compose(["trainer.accumulate=2", "trainer.batch_statistics=local"]), model)  # type: ignore[arg-type]


def test_declared_is_given() -> None:
    declared = FeatureSpec(dim=8, layout=Layout.SEQUENCE, pooled=True)
    right = Features(tokens=torch.zeros(2, 3, 8), pooled=torch.zeros(2, 8))
    check_features("model.encoder", {"name": "x"}, declared, right)
    for wrong, message in (
        (Features(tokens=torch.zeros(2, 3, 7), pooled=torch.zeros(2, 8)), "7 wide"),
        (Features(tokens=torch.zeros(2, 3, 8)), "declares pooled"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_features("model.encoder", {"name": "x"}, declared, wrong)


def test_measures_of_an_mlp_are_those_of_its_matrices() -> None:
    """FLOPs, parameters and memory against the formula: two for each weight and sample."""
    tree = measure(check(compose([*MLP, "data.batch_size=10"])))
    shapes = [(64, 32), (32, 10)]
    assert tree["flops_per_sample"] == sum(2 * rows * columns for rows, columns in shapes)
    weights = sum(rows * columns for rows, columns in shapes)
    assert weights <= tree["parameters"] <= weights + 4 * 42  # biases and norms besides
    assert tree["memory_bytes"]["parameters"] == 4 * tree["parameters"]
    assert tree["memory_bytes"]["optimizer"] == 8 * tree["parameters"]
    assert tree["prediction"] == {"logits": ["B", 10]}
    assert "FLOPs" in text_of_model(tree)


def test_nothing_is_allocated() -> None:
    report = check(compose(["model/encoder=vit", "model.encoder.patch_size=4", "model.encoder.dim=1536", "model.encoder.depth=40", "model.encoder.heads=16"]))
    assert report.model.num_parameters() > 1_000_000_000
    assert {parameter.device.type for parameter in report.model.parameters()} == {"meta"}
