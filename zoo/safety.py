"""Hydra's own node can name code: launchers, sweepers, callbacks, log handlers. A config file or an override may choose what is
installed, and nothing else, so that an experiment from somewhere else is as harmless as it looks.
"""

from collections.abc import Callable, Iterator
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import DictConfig, OmegaConf

from zoo.errors import ConfigError

RUNS_CODE = ("_target_", "()", "class", "ext://", "cfg://")
LOGGING_CLASSES = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "colorlog.ColoredFormatter")
ENVIRONMENT = ("PYTHON", "LD_", "DYLD_", "ZOO_", "PATH")
"""Beginnings of names that decide what code a process loads."""


def refuse_code(hydra: DictConfig, origin: Callable[[str], str | None]) -> None:
    """Refuse a composed ``hydra`` node that names code besides the chosen launcher's and sweeper's.

    Raises:
        ConfigError: with the key's path.
    """
    tree: Any = OmegaConf.to_container(hydra, resolve=False)
    choices = tree["runtime"]["choices"]
    allowed = {f"hydra.{part}{path}": value for part in ("launcher", "sweeper") for path, value in installed(f"hydra/{part}", choices.get(f"hydra/{part}"))}
    for path, value in targets(tree, "hydra"):
        if allowed.get(path) != value and not (
            path.startswith(("hydra.job_logging.", "hydra.hydra_logging.")) and path.endswith(".class") and value in LOGGING_CLASSES
        ):
            raise ConfigError(
                path,
                f"{value!r} names code to run, which no config of zoo can",
                "choose an installed plugin as a group: hydra/launcher=NAME, hydra/sweeper=NAME",
                origin=origin(path),
            )
    for name in tree["job"]["env_set"] or {}:
        if str(name).upper().startswith(ENVIRONMENT):
            path = f"hydra.job.env_set.{name}"
            raise ConfigError(path, f"{name} decides what code a process loads, which no config of zoo can", "set it in the shell", origin=origin(path))


def installed(group: str, choice: str | None) -> Iterator[tuple[str, str]]:
    """What an installed plugin itself put into the ConfigStore: path below its node -> import string."""
    if choice is None:
        return
    try:
        node = ConfigStore.instance().load(f"{group}/{choice}.yaml").node
    except ConfigLoadError:  # a file's: it may name nothing
        return
    yield from targets(OmegaConf.to_container(node, resolve=False), "")


def targets(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every key that asks for code, at any depth."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            where = f"{path}.{key}"
            if key in RUNS_CODE or (isinstance(value, str) and value.startswith(("ext://", "cfg://")) and not value.startswith("ext://sys.std")):
                yield where, value
            else:
                yield from targets(value, where)
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from targets(value, f"{path}[{place}]")
