"""Whether a composition can have the batches that it asks for, before data is read."""

from typing import TYPE_CHECKING

from zoo.config import RunConfig
from zoo.data.budget import check_budgets
from zoo.errors import ConfigError
from zoo.specs import DataSpec, SpectrogramInput, TokenInput

if TYPE_CHECKING:
    from zoo.model import Model


def check_batches(config: RunConfig, model: "Model", spec: DataSpec) -> None:
    """Budgets count something that the model takes, and packing finds inputs of unequal lengths and an encoder that takes them packed.

    Raises:
        ConfigError: by the option.
    """
    inputs = [entry for entry in spec.inputs if entry.name in model.takes]
    check_budgets(config.loader, inputs)
    if not config.loader.packs:
        return
    if config.trainer.compile:
        raise ConfigError(
            "trainer.compile",
            "packed batches (data.packing=flat) have other shapes at every step: each would be compiled anew",
            "trainer.compile=false",
            "data.packing=none",
        )
    if config.lora.rank is not None and config.lora.dropout > 0:
        raise ConfigError(
            "model.lora.dropout",
            f"{config.lora.dropout}: adapters drop out by row, and packed batches (data.packing=flat) have many items in one",
            "model.lora.dropout=0",
            "data.packing=none",
        )
    if config.parallel.sequence:
        raise ConfigError("parallel.sequence", "a packed row (data.packing=flat) is not shared by positions", "parallel.sequence=false", "data.packing=none")
    if not any(isinstance(entry, TokenInput | SpectrogramInput) for entry in inputs):
        taken = ", ".join(f"{entry.name} ({entry.kind})" for entry in inputs)
        raise ConfigError("data.packing", f"the model takes {taken}, whose samples have one shape: there is no padding to save", "data.packing=none")
    if not getattr(model.encoder, "packs", False):
        from zoo.build import fitting_names
        from zoo.registry import ENCODERS

        others = [name for name in fitting_names(ENCODERS, inputs) if getattr(ENCODERS.load(name), "packs", False)]
        raise ConfigError(
            "data.packing",
            f"encoder {config.encoder['name']!r} takes each sample as a row, and would mix those that stand in one",
            "data.packing=none; data.order=buckets saves most of the padding",
            *([f"an encoder that packs: model/encoder={'|'.join(others)}"] if others else []),
        )
