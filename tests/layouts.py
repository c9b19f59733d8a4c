"""Steps of real models in any layout of processes, and what they did to loss, gradient and weights."""

from dataclasses import dataclass
from typing import Any

import torch

DIGITS = ["data=digits", "data.batch_size=16", "logger=none", "trainer.clip_norm=null"]
MODELS = {
    "mlp": [*DIGITS, "model/encoder=mlp", "model.encoder.dropout=0.1"],
    "cnn": [*DIGITS, "model/encoder=cnn_tiny"],
    "vit": [*DIGITS, "model/encoder=vit_tiny", "model.encoder.patch_size=2", "model.encoder.dim=24", "model.encoder.heads=4", "model.encoder.depth=2"]
    + ["model.encoder.dropout=0.1", "model.encoder.attention_dropout=0.1", "model.encoder.drop_path=0.1"],
}
"""Overrides by the model's name; widths are small so that a table of hundreds of runs ends."""


@dataclass
class Trace:
    """What a run of some steps did, on rank 0: losses, gradient norms, the last step's gradients and the weights after it."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]


def trace(rank: int, world: int, overrides: list[str], steps: int = 3, dtype: str = "float32") -> Trace | None:
    """Run some optimizer steps as a job would, without its files."""
    from functools import partial

    from zoo.build import build_augment, build_dataset, build_model, build_optimizer
    from zoo.compose import compose
    from zoo.data.loader import Loader
    from zoo.parallel.collectives import everyone
    from zoo.parallel.layout import degrees
    from zoo.parallel.mesh import make_mesh
    from zoo.parallel.parallelize import place
    from zoo.parallel.seeding import seed_everything
    from zoo.parallel.sharding import whole_state
    from zoo.training.job import taken
    from zoo.training.step import TrainStep

    del rank, world
    config = compose(overrides)
    device = torch.device("cpu")
    mesh = make_mesh(degrees(config.parallel, everyone().size), device)
    data = build_dataset(config).open()
    with torch.device("meta"):
        data = taken(data, build_model(config, data.spec))
    precise = getattr(torch, dtype)

    def build() -> Any:
        return build_model(config, data.spec).to(precise)

    seed_everything(config.run.seed)
    model = place(build, partial(build), mesh, device, config.trainer, config.parallel).train()
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
    optimizer = build_optimizer(config, model)
    step = TrainStep(model=model, optimizer=optimizer, schedule=lambda _: 1.0, settings=config.trainer, seed=0, mesh=mesh, device=device)
    losses, norms = [], []
    for number, parts in zip(range(steps), loader, strict=False):
        parts = [part.apply(lambda value: value.to(precise) if value.is_floating_point() else value) for part in parts]
        counts, _ = step.counts(parts, False)
        step(parts, number, counts)
        losses.append(sum(step.terms.values()))
        norms.append(step.norm)
    gradients = {name: whole(parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None}
    weights = whole_state(model)
    return Trace(losses, norms, gradients, weights)


def whole(gradient: Any) -> torch.Tensor:
    return (gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient).detach().clone()  # type: ignore[no-any-return]


def difference(found: Trace, wanted: Trace) -> dict[str, float]:
    """Largest relative differences: of the losses, and of gradients and weights as wholes."""
    assert found.gradients.keys() == wanted.gradients.keys()

    def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        size = torch.stack([tensor.double().norm() for tensor in other.values() if tensor.is_floating_point()]).norm()
        far = torch.stack([(one[name].double() - tensor.double()).norm() for name, tensor in other.items() if tensor.is_floating_point()]).norm()
        return float(far / size)

    return {
        "loss": max(abs(one - other) / abs(other) for one, other in zip(found.losses, wanted.losses, strict=True)),
        "norm": max(abs(one - other) / abs(other) for one, other in zip(found.norms, wanted.norms, strict=True)),
        "gradient": apart(found.gradients, wanted.gradients),
        "weights": apart(found.weights, wanted.weights),
    }
