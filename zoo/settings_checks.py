"""A run's settings against each other: the first of the checks (``zoo.checks``), without data, model or torch."""

from zoo.config import RunConfig
from zoo.errors import ConfigError
from zoo.parallel.check import check_degrees, parts_of_batch


def check_settings(config: RunConfig) -> None:
    """Settings against each other."""
    for one in (check_degrees, check_split_of_batch, check_warmup, check_init, check_monitor_mode, check_store):
        one(config)


def check_store(config: RunConfig) -> None:
    """The package that speaks the store's protocol is here."""
    if config.trainer.checkpoint_to is not None:
        from zoo.training.store import check_protocol

        check_protocol(config.trainer.checkpoint_to)


def check_split_of_batch(config: RunConfig) -> None:
    parts = parts_of_batch(config)
    if config.loader.batch_size < parts:
        raise ConfigError(
            "data.batch_size",
            f"{config.loader.batch_size} samples of a step cannot be split into {parts} parts "
            f"(trainer.accumulate={config.trainer.accumulate} x parallel.processes={config.parallel.processes})",
            f"data.batch_size={parts} or more: it is the global batch of one optimizer step",
            "a smaller trainer.accumulate, or fewer parallel.processes",
        )


def check_warmup(config: RunConfig) -> None:
    warmup, steps = config.schedule.get("warmup_steps"), config.trainer.max_steps
    if isinstance(warmup, int) and steps is not None and warmup >= steps:
        raise ConfigError(
            "schedule.warmup_steps",
            f"{warmup} leaves nothing of a run of trainer.max_steps={steps}",
            f"schedule.warmup_steps={max(0, steps // 10)}",
            f"a longer run: trainer.max_steps={warmup * 10}",
        )


def check_init(config: RunConfig) -> None:
    for key, given, empty in (
        ("init_skip", config.run.init_skip, "[]"),
        ("init_rename", config.run.init_rename, "{}"),
        ("init_fit", config.run.init_fit, "[]"),
    ):
        if given and config.run.init is None:
            raise ConfigError(key, f"{given} speaks of weights that init does not name", "init=BUNDLE", f"{key}={empty}")


def check_monitor_mode(config: RunConfig) -> None:
    if config.trainer.monitor_mode is not None and config.trainer.monitor is None:
        raise ConfigError(
            "trainer.monitor_mode",
            f"{config.trainer.monitor_mode} belongs to a metric, and trainer.monitor names none",
            "trainer.monitor=validation/NAME",
            "trainer.monitor_mode=null for the head's own",
        )
    if (name := config.trainer.monitor) is not None and not name.startswith("validation/"):
        raise ConfigError(
            "trainer.monitor",
            f"{name!r} is not measured on the validation split, which is what decides",
            f"trainer.monitor=validation/{name.rpartition('/')[2]}",
            "trainer.monitor=null for the head's own",
        )
