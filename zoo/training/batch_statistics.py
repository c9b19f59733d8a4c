"""Layers that mix the rows of a batch, in batches that are split."""

from zoo.errors import ConfigError
from zoo.model import Model, mixes_batch
from zoo.parallel.mesh import Mesh
from zoo.settings import BatchStatistics, TrainerSettings


def refuse_mixed_batches(model: Model, settings: TrainerSettings, mesh: Mesh) -> None:
    """Batch norm sees only its own part of a split batch: other numbers than with the whole one."""
    parts = mesh.degrees.data * settings.accumulate
    if parts > 1 and settings.batch_statistics is not BatchStatistics.LOCAL and (layers := mixes_batch(model)):
        raise ConfigError(
            "trainer.batch_statistics",
            f"{layers[0]} (and {len(layers) - 1} more) mixes the rows of a batch, which is split into {parts} parts: the numbers would depend on the split",
            "a model without batch norm (layer or group norm)",
            "one process and trainer.accumulate=1",
            "trainer.batch_statistics=local to let each part have statistics of its own",
        )
