"""Whole runs with the options that change how the numbers are made, and not what they are."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import make_trainer
from tests.unit.training.test_job import TREE
from tests.unit.training.test_resume import everything, stop_at
from zoo.build import build_model
from zoo.config import RunConfig
from zoo.data.processor import Processor
from zoo.errors import ConfigError
from zoo.hub.bundle import load_bundle
from zoo.hub.export import export_run
from zoo.hub.weights import read_header
from zoo.model import Model
from zoo.training import job
from zoo.training.checkpoint import newest_checkpoint, open_checkpoint, step_folders
from zoo.training.determinism import deterministic
from zoo.training.logging import repeatable
from zoo.training.tensors import read_tensors

CNN: dict[str, Any] = {"name": "cnn", "widths": [8], "blocks": [1]}
VIT: dict[str, Any] = {"name": "vit", "dim": 16, "depth": 2, "heads": 2, "patch_size": 4, "dropout": 0.1}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(folder: Path, encoder: dict[str, Any], model: dict[str, Any] | None = None, threads: int = 1, **trainer: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    tree = TREE | {
        "model": TREE["model"] | {"encoder": encoder} | (model or {}),
        "trainer": TREE["trainer"] | {"max_steps": 4, "checkpoint_every": 2, "log_every": 1} | trainer,
        "parallel": {"threads": threads},
    }
    config = RunConfig.from_dict(tree)
    config.save(folder / "config.yaml")
    return job.run_job(config, folder)


def figures(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [repeatable(row) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [CNN, VIT], ids=["cnn", "vit"])
def test_deterministic_runs_are_bit_equal(tmp_path: Path, encoder: dict[str, Any]) -> None:
    """Two runs with two threads: the same bytes of weights, and the mode is on record and off again."""
    for name in ("a", "b"):
        run(tmp_path / name, encoder, threads=2, deterministic=True)
    first, second = ((tmp_path / name / "bundle" / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second
    assert figures(tmp_path / "a") == figures(tmp_path / "b")


def test_a_deterministic_run_says_so_and_leaves_the_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(job, "seed_everything", lambda _: modes.append(torch.are_deterministic_algorithms_enabled()))
    run(tmp_path / "a", TREE["model"]["encoder"], deterministic=True)
    assert modes == [True]
    environment = json.loads((tmp_path / "a" / "environment.json").read_text())
    assert environment["deterministic"] is True
    assert {"zoo", "commit", "config", "device", "accelerator", "threads", "packages"} <= set(environment)
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_kernel_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer.deterministic: put_[\s\S]*trainer.deterministic=false"), deterministic(True):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    assert not torch.are_deterministic_algorithms_enabled()


def test_channels_last_changes_no_result_beyond_rounding(tmp_path: Path) -> None:
    for name in ("contiguous", "channels_last"):
        run(tmp_path / name, CNN, memory_format=name, ema=0.9)
    found, wanted = (read_tensors(tmp_path / name / "bundle" / "model.safetensors") for name in ("channels_last", "contiguous"))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def channels_last_trainer(folder: Path) -> Any:
    """The tiny trainer, around a convolution: its weight and moments are channels-last, fused kernels walk over them in memory's order."""
    from tests.tiny import make_model

    model = make_model(0.2)
    model.encoder.convolution = torch.nn.Conv2d(3, 4, 3)
    model.head.scale = lambda: model.encoder.convolution(torch.arange(75.0).view(1, 3, 5, 5) / 75).square().sum()
    own = model.head.forward
    model.head.forward = lambda features: {name: value * (1 + 0.01 * model.head.scale()) for name, value in own(features).items()}
    model.to(memory_format=torch.channels_last)
    return make_trainer(folder, model=model)


def test_channels_last_goes_on_exactly(tmp_path: Path) -> None:
    """R4: moments come back in the memory format of their parameters."""
    whole, first, second = (channels_last_trainer(tmp_path / name) for name in ("whole", "cut", "cut"))
    whole.fit()
    stop_at(first, 7)
    first.fit()
    second.load(newest_checkpoint(tmp_path / "cut")[0])
    moments = second.step.optimizer.state[second.model.encoder.convolution.weight]["exp_avg"]
    assert moments.stride() == second.model.encoder.convolution.weight.stride() != torch.empty(4, 3, 3, 3).stride()
    second.fit()
    found, wanted = everything(second), everything(whole)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_run_with_adapters_publishes_a_plain_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle holds the plain model's tensors and no others, and gives what the adapted model gave at the end; so does an export of its checkpoint."""
    run(tmp_path / "base", VIT)
    given: dict[str, torch.Tensor] = {}
    publishable = job.Job._publishable

    def before(self: Any, trainer: Any, model: Model, evaluators: Any) -> Any:
        batch = next(iter(evaluators["test"].loader))[0]
        with torch.no_grad(), trainer.step.ema.applied():
            given["logits"] = model.eval()(batch.inputs)["logits"]
        given["batch"] = batch
        return publishable(self, trainer, model, evaluators)

    monkeypatch.setattr(job.Job, "_publishable", before)
    lora = {"lora": {"rank": 2, "dropout": 0.1, "targets": ["encoder.blocks.*"]}}
    result = run(tmp_path / "lora", VIT, lora, ema=0.5, eval_every=4, freeze=["encoder"])  # which the adapters are not under
    plain = build_model(RunConfig.load(tmp_path / "base" / "config.yaml"), Processor.load(tmp_path / "base" / "processor").spec, fetch=False)
    assert set(read_header(tmp_path / "lora" / "bundle" / "model.safetensors")) == set(plain.state_dict())
    assert result["parameters"] == plain.num_parameters()
    adapters = sum(2 * sum(layer.weight.shape) for block in plain.encoder.blocks for layer in block.modules() if isinstance(layer, torch.nn.Linear))  # type: ignore[union-attr]
    head = sum(parameter.numel() for parameter in plain.head.parameters())
    assert result["trained_parameters"] == adapters + head
    told = capsys.readouterr().err
    assert f"lora: 8 layers adapted, with {adapters:,} parameters" in told
    assert f"{plain.num_parameters():,} parameters, trained {adapters + head:,}; " in told
    with torch.no_grad():
        for folder in (tmp_path / "lora" / "bundle", export_run(tmp_path / "lora", to=tmp_path / "exported", checkpoint="last").folder):
            logits = load_bundle(folder).model(given["batch"].inputs)["logits"]
            torch.testing.assert_close(logits, given["logits"], rtol=1e-4, atol=1e-5)


def test_a_disk_that_fills_up_ends_the_run_with_the_last_checkpoint_intact(tmp_path: Path) -> None:
    """R5: files of this process may not grow beyond half a checkpoint from step 4 on; the kernel refuses the rest of the write."""
    run(tmp_path / "sized", VIT)
    size = max(file.stat().st_size for file in (tmp_path / "sized" / "checkpoints").rglob("*.safetensors"))
    code = f"""
        import resource, sys
        from pathlib import Path
        import tests.unit.training.test_run_options as options
        from zoo.errors import CheckpointError
        from zoo.training.checkpoint import Checkpointer
        whole = Checkpointer.save
        def save(self, step, *rest, **named):
            if step == 4:
                self.wait()
                resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size}))
            whole(self, step, *rest, **named)
        Checkpointer.save = save
        try:
            options.run(Path(sys.argv[1]), options.VIT, max_steps=8)
        except CheckpointError as error:
            print(error)
            sys.exit(2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "full")], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stdout
    assert "the last complete one is step_00000002; make room, then go on with: zoo train resume=" in done.stdout
    folders = step_folders(tmp_path / "full" / "checkpoints")
    assert list(folders) == [2]
    assert open_checkpoint(folders[2]).step == 2
    assert not list((tmp_path / "full" / "checkpoints").glob(".new-*"))
    assert job.run_job(RunConfig.load(tmp_path / "full" / "config.yaml"), tmp_path / "full")["step"] == 8
