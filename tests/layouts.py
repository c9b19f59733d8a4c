"""Steps of real models in any layout of processes, and what they did to loss, gradient and weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DIGITS = ["data=digits", "data.batch_size=16", "logger=none", "trainer.clip_norm=null"]
VIT = ["model/encoder=vit_tiny", "model.encoder.patch_size=2", "model.encoder.dim=24", "model.encoder.heads=4", "model.encoder.depth=2"]
DROPPING = ["model.encoder.dropout=0.1", "model.encoder.attention_dropout=0.1", "model.encoder.drop_path=0.1"]
MODELS = {
    "mlp": [*DIGITS, "model/encoder=mlp", "model.encoder.dropout=0.1"],
    "cnn": [*DIGITS, "model/encoder=cnn_tiny"],
    "vit": [*DIGITS, *VIT, *DROPPING],
}
"""Overrides by the model's name; widths are small so that a table of hundreds of runs ends."""

LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "single": (1, []),
    "ddp": (2, []),
    "fsdp": (2, ["parallel.strategy=fsdp"]),
    "tensor": (2, ["parallel.tensor=2"]),
    "sequence": (2, ["parallel.tensor=2", "parallel.sequence=true"]),
    "hsdp": (4, ["parallel.strategy=fsdp", "parallel.replicas=2"]),
    "ddp+tensor": (4, ["parallel.tensor=2", "parallel.sequence=true"]),
    "fsdp+tensor": (4, ["parallel.strategy=fsdp", "parallel.tensor=2", "parallel.sequence=true"]),
}
"""Processes and overrides."""


@dataclass
class Trace:
    """What a run of some steps did: losses, gradient norms, the last step's gradients and the weights after it."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]


def make_trainer(overrides: list[str], dtype: str = "float32", folder: Path | None = None) -> Any:
    """A trainer as a job makes it, in this process's place of its layout; without the job's files."""
    from zoo.build import build_augment, build_dataset, build_model, build_optimizer, build_schedule
    from zoo.checks import check
    from zoo.compose import compose
    from zoo.data.loader import Loader
    from zoo.layers.lora import add_lora
    from zoo.parallel.collectives import everyone
    from zoo.parallel.layout import degrees
    from zoo.parallel.mesh import make_mesh
    from zoo.parallel.parallelize import place
    from zoo.parallel.seeding import seed_everything
    from zoo.training.checkpoint import Checkpointer
    from zoo.training.job import taken
    from zoo.training.state import horizon_of
    from zoo.training.trainer import Trainer

    world = everyone()
    config = compose([*overrides, f"parallel.processes={world.size}"])
    check(config)
    device = torch.device("cpu")
    mesh = make_mesh(degrees(config.parallel, world.size), device)
    data = build_dataset(config).open()
    with torch.device("meta"):
        skeleton = build_model(config, data.spec).to(getattr(torch, dtype))
        add_lora(skeleton, config.lora)
    data = taken(data, skeleton)
    precise = getattr(torch, dtype)

    def build() -> Any:
        model = build_model(config, data.spec).to(precise)
        add_lora(model, config.lora)
        return model

    seed_everything(config.run.seed)
    model = place(build, skeleton, mesh, device, config.trainer, config.parallel)
    loader = Loader(
        data=data,
        split="train",
        settings=config.loader,
        augment=build_augment(config),
        seed=0,
        rank=mesh.data.rank,
        world=mesh.data.size,
        micro_batches=config.trainer.accumulate,
        training=True,
        batch_size=config.loader.batch_size,
    )
    horizon = horizon_of(config.trainer, loader.steps_per_epoch)
    writers = {"rank": world.rank, "writers": world.size} if mesh.degrees.sharded else {}
    return Trainer(
        model=model,
        optimizer=build_optimizer(config, model),
        schedule=build_schedule(config, horizon),
        horizon=horizon,
        train=Precise(loader, precise),  # type: ignore[arg-type]
        evaluator=None,
        settings=config.trainer,
        seed=0,
        mesh=mesh,
        device=device,
        checkpointer=Checkpointer(folder, 1, timeout=30, **writers) if folder is not None else None,
    )


class Precise:
    """A loader whose batches are of another floating-point type."""

    def __init__(self, loader: Any, dtype: torch.dtype) -> None:
        self.loader, self.dtype = loader, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Any:
        for parts in self.loader:
            yield [part.apply(lambda value: value.to(self.dtype) if value.is_floating_point() else value) for part in parts]


def trace(overrides: list[str], steps: int = 3, dtype: str = "float32") -> Trace:
    """Run some optimizer steps."""
    from zoo.parallel.sharding import put_together, whole_state

    trainer = make_trainer([*overrides, f"trainer.max_steps={steps}"], dtype)
    trainer.model.train()
    step, losses, norms = trainer.step, [], []
    for number, parts in zip(range(steps), trainer.train, strict=False):
        step(parts, number, step.counts(parts, False)[0])
        losses.append(sum(step.terms.values()))
        norms.append(step.norm)
    gradients = {
        name: put_together(part.grad, step.pieces.get(name)).detach().clone()
        for part in step.gradients.parameters
        for name in [step.names[id(part)]]
        if part.grad is not None
    }
    return Trace(losses, norms, gradients, whole_state(trainer.model, trainer.mesh.grid))


def traces(rank: int, world: int, runs: list[list[str]], steps: int = 3, dtype: str = "float32") -> list[Trace | None]:
    """Several of them in one group of processes; on rank 0."""
    del world
    found = [trace(overrides, steps, dtype) for overrides in runs]
    return [one if rank == 0 else None for one in found]


def difference(found: Trace, wanted: Trace) -> dict[str, float]:
    """Relative differences: the largest of the losses and norms, and those of gradients and weights as wholes."""
    assert found.gradients.keys() == wanted.gradients.keys()
    return {
        "loss": max(abs(one - other) / abs(other) for one, other in zip(found.losses, wanted.losses, strict=True)),
        "norm": max(abs(one - other) / abs(other) for one, other in zip(found.norms, wanted.norms, strict=True)),
        "gradient": apart(found.gradients, wanted.gradients),
        "weights": apart(found.weights, wanted.weights),
    }


def apart(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm, of all floating-point tensors together."""
    numbers = {name: tensor.double() for name, tensor in wanted.items() if tensor.is_floating_point()}
    far = torch.stack([(found[name].double() - tensor).norm() for name, tensor in numbers.items()]).norm()
    return float(far / torch.stack([tensor.norm() for tensor in numbers.values()]).norm())
