"""Cross-component checks: each refuses its own mistake, with both numbers and the ways out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zoo.build import build_dataset, build_model
from zoo.checks import check, check_batch_statistics, check_features, check_opened, check_randomness, check_source
from zoo.cli.composed import measure, text_of_model
from zoo.compose import compose
from zoo.errors import ConfigError
from zoo.specs import ClassTarget, DataSpec, FeatureSpec, Layout
from zoo.structs import Features

MLP = ["model/encoder=mlp", "model.encoder.dims=[32]"]


TEXT = ["data=tweets", "model/encoder=transformer"]


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
        (["model/encoder=vit", "model.encoder.patch_size=5"], "model.encoder.patch_size", "divisors of both: 1, 2, 4, 8"),
        (["data.batch_tokens=100"], "data.batch_tokens", "it counts text or a history, and the model takes image (image)"),
        ([*TEXT, "data.batch_seconds=3"], "data.batch_seconds", "data.batch_tokens=..., which counts what it takes"),
        ([*TEXT, "data.batch_tokens=3"], "data.order", "data.order=buckets"),
        (["data.packing=flat"], "data.packing", "whose samples have one shape"),
        ([*TEXT, "data.packing=flat", "trainer.compile=true"], "trainer.compile", "other shapes at every step"),
        ([*TEXT, "model/encoder=lstm", "data.packing=flat"], "data.packing", "an encoder that packs: model/encoder=transformer"),
        (["init=/does/not/exist"], "init", "there is no such folder"),
        (
            ["init='https://h/x.bin#sha256=0000000000000000000000000000000000000000000000000000000000000000'"],
            "init",
            "a single .bin file does not say what model it belongs to",
        ),
        (["init='https://h/x.safetensors'"], "init", "an address without a checksum"),
        (["init='pypi://x/y'"], "init", "an exact version"),
        ([f"init={'x' * 300}"], "init", "nor the name of a pretrained model"),
        (["init='~nosuchuser/x'"], "init", "~nosuchuser/x: there is no such folder"),
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


def test_weights_that_may_be_there_are_not_fetched_to_be_checked(tmp_path: Path) -> None:
    check_source(f"https://h/x.safetensors#sha256={'0' * 64}")
    check_source(f"https://h/x.zip#sha256={'0' * 64}")
    check_source("minilm_l6")
    (tmp_path / "config.json").write_text('{"model_type": "nobody"}')
    (tmp_path / "model.safetensors").write_bytes(b"tensors of any family can be taken over by their names")
    check_source(str(tmp_path))


@pytest.mark.parametrize("config", [b"\xff\xfe{}", b'{"model_type": "nobody"}', b"{}"])
def test_a_folder_that_no_converter_reads_is_refused_before_data_is_read(config: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ConfigError, match=r"^init: .*config\.json.*(not JSON|none that zoo reads)") as told:
        check(compose([f"init={tmp_path}"]))
    assert "init=null" in str(told.value)


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
        head = nn.Identity()

    model = Normed(nn.Linear(2, 2), nn.BatchNorm1d(2))
    split = compose(["trainer.accumulate=2"])
    with pytest.raises(ConfigError, match=r"the first is 1\) take statistics over a batch") as told:
        check_batch_statistics(split, model)  # type: ignore[arg-type]
    assert len(told.value.ways_out) == 3
    check_batch_statistics(compose([]), model)  # type: ignore[arg-type]
    check_batch_statistics(compose(["trainer.accumulate=2", "trainer.batch_statistics=local"]), model)  # type: ignore[arg-type]


class Wrapped(nn.Module):
    """A library's layer that drops out by itself, before the real encoder."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.output_spec = encoder, encoder.output_spec

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> Features:
        features: Features = self.encoder(torch.nn.functional.dropout(values, 0.5, self.training), mask)
        return features


def test_randomness_that_is_not_keyed_is_refused_where_a_batch_is_split() -> None:
    split = compose([*MLP, "trainer.accumulate=2", "model.encoder.dropout=0.5"])
    report = check(split)
    report.model.encoder = Wrapped(report.model.encoder)
    with pytest.raises(ConfigError, match="a layer draws from torch's generator"):
        check_randomness(split, report.model, report.batch)
    check_randomness(compose(MLP), report.model, report.batch)


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


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda rows: [{"label": "0"}] * (rows - 1), "decodes 2 rows to 1 answers"),
        (lambda rows: [{"label": torch.zeros(())}] * rows, "not JSON serializable"),
    ],
)
def test_a_head_that_answers_wrongly_is_refused_before_training(answers: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `zoo predict` would stumble over after hours of training."""
    from zoo.heads.classification import ClassificationHead

    monkeypatch.setattr(ClassificationHead, "decode", lambda self, prediction, targets: answers(prediction["logits"].shape[0]))
    with pytest.raises(ConfigError, match=message):
        check(compose(MLP))
