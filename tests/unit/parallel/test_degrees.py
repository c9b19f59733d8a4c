"""Degrees of parallelism against the number of processes: what does not divide is refused with what does."""

import pytest

from zoo.checks import check
from zoo.compose import compose
from zoo.errors import ConfigError
from zoo.parallel.layout import Degrees, degrees
from zoo.settings import ParallelSettings, Strategy


@pytest.mark.parametrize(
    ("settings", "world", "wanted"),
    [
        ({}, 1, Degrees(1, 1, 1)),
        ({}, 8, Degrees(8, 1, 1)),
        ({"tensor": 4}, 8, Degrees(2, 1, 4)),
        ({"strategy": Strategy.FSDP}, 8, Degrees(1, 8, 1)),
        ({"strategy": Strategy.FSDP, "replicas": 2}, 8, Degrees(2, 4, 1)),
        ({"strategy": Strategy.FSDP, "replicas": 2, "tensor": 2}, 16, Degrees(2, 4, 2)),
    ],
)
def test_processes_are_shared_out(settings: dict, world: int, wanted: Degrees) -> None:  # type: ignore[type-arg]
    found = degrees(ParallelSettings(**settings), world)
    assert found == wanted
    assert found.world == world


VIT = ["model/encoder=vit_tiny", "model.encoder.patch_size=2", "model.encoder.dim=48", "model.encoder.heads=6", "logger=none"]


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        ([*VIT, "parallel.processes=6", "parallel.tensor=4"], "parallel.tensor", r"4 processes to a block do not divide 6(.|\n)*parallel.tensor=1\|2\|3\|6"),
        ([*VIT, "parallel=fsdp", "parallel.processes=6", "parallel.replicas=4"], "parallel.replicas", r"4 copies(.|\n)*parallel.replicas=1\|2\|3\|6"),
        ([*VIT, "parallel.replicas=2"], "parallel.replicas", r"means nothing without sharding(.|\n)*parallel=fsdp"),
        ([*VIT, "parallel.sequence=true"], "parallel.sequence", r"parallel.tensor=2 or more"),
        ([*VIT, "parallel.processes=4", "parallel.tensor=4"], "parallel.tensor", r"4 does not divide the 6 heads(.|\n)*parallel.tensor=1\|2\|3\|6"),
        (["model/encoder=mlp", "parallel.processes=2", "parallel.tensor=2"], "parallel.tensor", r"this model has none(.|\n)*parallel=fsdp"),
        ([*VIT, "parallel=fsdp", "optimizer=timm", "optimizer.optimizer=lamb"], "optimizer", r"Lamb may need whole tensors(.|\n)*optimizer=adamw"),
        ([*VIT, "parallel=fsdp", "parallel.processes=1", "parallel.offload=true"], "parallel.offload", r"nothing is sharded"),
        ([*VIT, "parallel=fsdp", "parallel.replicas=2"], "parallel.replicas", r"2 copies of one shard each"),
        ([*VIT, "parallel.reshard=false"], "parallel.reshard", r"means nothing without sharding"),
        ([*VIT, "trainer.recompute_every=2"], "trainer.recompute_every", r"no block is recomputed"),
        ([*VIT, "trainer.on_spike=stop"], "trainer.on_spike", r"what a spike is"),
        ([*VIT, "model.lora.alpha=4"], "model.lora.alpha", r"there are none(.|\n)*model.lora.rank=8"),
        (["model/encoder=cnn_tiny", "model.encoder.norm=batch", "trainer.non_finite=skip"], "trainer.non_finite", r"running statistics(.|\n)*rollback"),
        (["model/encoder=mlp", "trainer.recompute=full"], "trainer.recompute", r"names no repeated blocks"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused_before_data_is_read(overrides: list[str], path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        check(compose(overrides))
    assert told.value.path == path
