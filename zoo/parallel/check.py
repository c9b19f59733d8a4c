"""Whether a model can be shared the way that ``parallel`` asks for. Torch is imported where tensors are needed."""

from typing import TYPE_CHECKING

from zoo.errors import ConfigError
from zoo.parallel.layout import degrees, world_size
from zoo.settings import MemoryFormat, Recompute, Strategy

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from zoo.config import RunConfig
    from zoo.model import Model


def check_degrees(config: "RunConfig") -> None:
    degrees(config.parallel, world_size(config.parallel))


def parts_of_batch(config: "RunConfig") -> int:
    """Into how many parts a global batch is split."""
    return config.trainer.accumulate * degrees(config.parallel, world_size(config.parallel)).data


def check_sharing(config: "RunConfig", model: "Model") -> None:
    """Whether the model can be shared the way ``parallel`` asks for, and repeats blocks where ``trainer.recompute`` asks for them."""
    if config.parallel.tensor > 1:
        from zoo.parallel.tensor import check_tensor

        check_tensor(model, config.parallel.tensor)
    if config.trainer.recompute is not Recompute.NONE:
        from zoo.parallel.recompute import check_recompute

        check_recompute(model, config.trainer.recompute)
    check_sharded_parts(config, model)
    for one in (check_sharded_thaw, check_tensor_lora, check_sharded_format):
        one(config)


def check_sharded_optimizer(config: "RunConfig", optimizer: "Optimizer") -> None:
    """Whether each process can update its part by itself.

    Raises:
        ConfigError: where an update may need whole tensors.
    """
    from zoo.parallel.sharding import check_elementwise

    if degrees(config.parallel, world_size(config.parallel)).sharded:
        check_elementwise(optimizer)


def check_sharded_parts(config: "RunConfig", model: "Model") -> None:
    if config.parallel.strategy is Strategy.FSDP and getattr(model.encoder, "skips_parts", False):
        raise ConfigError(
            "model.encoder.absent",
            "skip leaves a part out where no row of a process has it, and with parallel.strategy=fsdp the others would wait for it forever",
            "model.encoder.absent=run: the same numbers",
            "parallel=ddp",
        )


def check_sharded_thaw(config: "RunConfig") -> None:
    if config.parallel.strategy is Strategy.FSDP and config.trainer.freeze_until is not None:
        raise ConfigError(
            "trainer.freeze_until",
            f"{config.trainer.freeze_until}: what is frozen cannot thaw while parallel.strategy=fsdp shards it",
            "parallel=ddp",
            "two runs: the first with trainer.freeze, the second with init=RUN",
        )


def check_tensor_lora(config: "RunConfig") -> None:
    if config.parallel.tensor > 1 and config.lora.rank is not None:
        raise ConfigError(
            "model.lora.rank", f"{config.lora.rank}: adapters of matrices that parallel.tensor={config.parallel.tensor} cuts are not there", "parallel=fsdp"
        )


def check_sharded_format(config: "RunConfig") -> None:
    if config.trainer.memory_format is MemoryFormat.CHANNELS_LAST and degrees(config.parallel, world_size(config.parallel)).sharded:
        raise ConfigError(
            "trainer.memory_format", "channels_last orders whole tensors, and this layout cuts them", "trainer.memory_format=contiguous", "parallel=ddp"
        )
