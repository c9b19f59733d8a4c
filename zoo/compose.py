"""From config files and overrides to a ``RunConfig``, by Hydra.

Registered components and the settings' defaults are published into Hydra's ConfigStore, so that YAML holds presets only. The search
path is: the user's own ./conf, the conf that zoo ships, ``--config-dir``, ``hydra.searchpath``, the ConfigStore.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, run_job
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from zoo.config import PER_LABEL, RunConfig, Tree, read_yaml
from zoo.errors import ConfigError, ZooError
from zoo.prefixes import under
from zoo.presets import PRIMARY, conf_dir, conf_dirs
from zoo.registry import KINDS
from zoo.safety import refuse_code
from zoo.schema import Option, OptionType, Schema, plain
from zoo.settings import GroupSettings, LoaderSettings, LoraSettings, ModelSettings, ParallelSettings, RunSettings, TrainerSettings
from zoo.translate import explain, key_of

R = TypeVar("R")
OPEN = ("init_rename", "optimizer.overrides", "optimizer.options")
"""Mappings whose keys are the user's. Hydra would have keys that are new added by a plus, which the overrides of these are given here."""


class LazyNode(ConfigNode):
    """A ConfigStore entry whose tree is made when Hydra asks for it: few of the hundreds are asked for, and each costs a millisecond."""

    def __init__(self, group: str | None, name: str, make: Callable[[], Tree], package: str | None) -> None:
        self.name, self.group, self.package, self.provider, self._make = f"{name}.yaml", group, package, "zoo", make

    @property
    def node(self) -> DictConfig:
        return self.__dict__["node"] if "node" in self.__dict__ else OmegaConf.create(self._make())

    @node.setter
    def node(self, node: DictConfig) -> None:  # Hydra hands out a shallow copy of the entry, and sets its tree to a deep copy
        self.__dict__["node"] = node


def publish() -> None:
    """Put every registered component and every setting's default into Hydra's ConfigStore."""
    for registry in KINDS.values():
        for name in registry.names():
            package = f"{registry.group.replace('/', '.')}.{name}" if registry.kind in PER_LABEL else None
            _store(registry.group, name, partial(component_tree, registry.schema(name)), package)
    model = {**_defaults(ModelSettings), "lora": _defaults(LoraSettings)}
    _store(None, "base", lambda: {**_defaults(RunSettings), "model": model, "logger": {}, "callback": {}})
    _store("trainer", "default", lambda: _defaults(TrainerSettings))
    _store("parallel", "single", lambda: _defaults(ParallelSettings))


def _store(group: str | None, name: str, make: Callable[[], Tree], package: str | None = None) -> None:
    place = ConfigStore.instance().repo
    for part in group.split("/") if group else []:
        place = place.setdefault(part, {})
    place[f"{name}.yaml"] = LazyNode(group, name, make, package)


def component_tree(schema: Schema) -> Tree:
    """What choosing a component gives: its options, and a place for the components that it takes itself."""
    node = schema.defaults()
    nested = {option.name: option for option in schema.options if _component(option.type)}
    defaults: list[Any] = ["_self_", *({name: _choice(option)} for name, option in nested.items())]
    if schema.kind == "dataset":
        node |= {**_defaults(LoaderSettings), "augment": {}}
        defaults.append({"augment": None})
    if schema.kind == "optimizer":
        node |= _defaults(GroupSettings)
    own = {key: value for key, value in node.items() if key not in nested} | {name: None for name, option in nested.items() if not option.required}
    return {"defaults": defaults, **own} if len(defaults) > 1 else own


def _defaults(settings: type) -> Tree:
    return {field.name: plain(getattr(settings(), field.name)) for field in fields(settings)}


def _component(kind: OptionType) -> bool:
    return kind.form == "component" or (kind.form == "union" and any(_component(arg) for arg in kind.args))


def _choice(option: Option) -> str | None:
    return "???" if option.required else option.default


@dataclass
class Source:
    """One config that went into a composition."""

    file: str
    package: str
    tree: Any


class Composer:
    """Hydra, set up for zoo. One at a time in a process.

    Args:
        config_name: the primary config.
        config_dir: one more folder of configs.
    """

    def __init__(self, config_name: str = PRIMARY, config_dir: str | None = None) -> None:
        self.config_name, self.config_dir = config_name, config_dir
        version.setbase("1.3")
        publish()
        self.hydra = self.guard([], lambda: Hydra.create_main_hydra2("zoo", _search_path(config_dir)))

    def __enter__(self) -> "Composer":
        return self

    def __exit__(self, *_: object) -> None:
        GlobalHydra.instance().clear()

    def guard(self, overrides: Sequence[str], action: Callable[[], Any]) -> Any:
        """``action()``, with what Hydra and OmegaConf raise told in zoo's words."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="(?s).*validated against ConfigStore schema with the same name")
                return action()
        except ZooError:
            raise
        except Exception as error:
            if (told := explain(error, overrides, self)) is None:
                raise
            raise told from error

    def compose(self, overrides: Sequence[str], *, multirun: bool = False) -> DictConfig:
        """Hydra's whole config, its own node included; not resolved."""
        mode = RunMode.MULTIRUN if multirun else RunMode.RUN
        config = self.guard(overrides, lambda: self.hydra.compose_config(self.config_name, opened(overrides), run_mode=mode))
        assert isinstance(config, DictConfig)
        refuse_code(config.hydra, lambda path: self.origin(path, overrides))
        return config

    def tree(self, config: DictConfig, overrides: Sequence[str] = ()) -> Tree:
        """The job's part of a composed config as plain data, interpolations resolved."""
        if "hydra" in config:
            HydraConfig.instance().set_config(config)
        tree = self.guard(overrides, lambda: OmegaConf.to_container(config, resolve=False))
        job = OmegaConf.create({key: value for key, value in tree.items() if key != "hydra"})
        plain_tree = self.guard(overrides, lambda: OmegaConf.to_container(job, resolve=True))
        assert isinstance(plain_tree, dict)
        return {str(key): value for key, value in plain_tree.items()}

    def run_config(self, config: DictConfig, overrides: Sequence[str]) -> RunConfig:
        """A checked ``RunConfig``; ``resume=DIR`` and ``rerun=DIR`` take DIR's config, with the overrides on top."""
        _refuse_run_dir(config, overrides)
        tree = self.tree(config, overrides)
        if tree.get("resume") and tree.get("rerun"):
            raise ConfigError("resume", "resume and rerun exclude each other", "resume=DIR goes on with a run", "rerun=DIR does it again from its start")
        folder = tree.get("resume") or tree.get("rerun")
        if isinstance(folder, str):
            from zoo.training.store import is_url, run_files

            with run_files(folder) as files:
                return self.saved_config(files, overrides, store=folder if tree.get("resume") and is_url(folder) else None)
        return RunConfig.from_dict(tree, lambda path: self.origin(path, overrides))

    def wants_multirun(self, overrides: Sequence[str]) -> bool:
        """``hydra.mode=MULTIRUN``, on the command line or in a config such as an experiment that is a sweep."""
        if not any("MULTIRUN" in line for line in overrides) and not any(line.startswith(("experiment=", "+experiment=")) for line in overrides):
            return False
        return bool(self.guard(overrides, lambda: self.hydra.get_mode(self.config_name, opened(overrides))) == RunMode.MULTIRUN)

    def run_job(self, overrides: Sequence[str], task: Callable[[RunConfig], R]) -> R:
        """One job as Hydra runs it, its callbacks included; what the task raises comes out as it is."""
        config = self.compose(overrides)
        checked = self.run_config(config, overrides)  # before Hydra copies its config several times over
        with open_dict(config.hydra), read_write(config.hydra):
            config.hydra.mode = RunMode.RUN
        callbacks = Callbacks(config)
        callbacks.on_run_start(config=config, config_name=self.config_name)
        done = run_job(
            task_function=lambda _: task(checked),
            config=config,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=HydraContext(config_loader=self.hydra.config_loader, callbacks=callbacks),
            configure_logging=False,
        )
        callbacks.on_run_end(config=config, config_name=self.config_name, job_return=done)
        if done.status is JobStatus.FAILED:
            raise done._return_value
        result: R = done.return_value
        return result

    # --- a saved run, with overrides on top ---------------------------------------------------------------------------------------

    def saved_config(self, folder: Path, overrides: Sequence[str], store: str | None = None) -> RunConfig:
        """The config of a run directory with overrides on top. What comes from the file is data: nothing in it is resolved.

        Args:
            folder: of the run.
            overrides: as typed.
            store: where the run's checkpoints are found, whatever the file says.
        """
        file = folder / "config.yaml"
        if not file.is_file():
            key = "resume" if any(override.startswith("resume=") for override in overrides) else "rerun"
            raise ConfigError(key, f"{folder} holds no config.yaml, so it is no run directory", f"a run's own directory: {key}=runs/NAME/TIME")
        tree = read_yaml(file)
        if not isinstance(tree, dict):
            raise ZooError(f"{file}: a run's config is a mapping, not {tree!r}")
        RunConfig.from_dict(tree, lambda _: str(file))  # drift is the file's own: said before the overrides are looked at
        tree |= {"resume": None, "rerun": None, "run_dir": None, "allow": []}
        if store is not None:
            tree["trainer"] = {**tree["trainer"], "checkpoint_to": store}
        for override in self.guard(overrides, lambda: OverridesParser.create().parse_overrides(list(overrides))):
            self._apply(tree, override, file)
        return RunConfig.from_dict(tree, lambda path: override_of(path, overrides) or str(file))

    def _apply(self, tree: Tree, override: Override, file: Path) -> None:
        line, key = override.input_line or "", override.key_or_group
        if override.is_hydra_override():
            return
        if override.is_sweep_override():
            raise ConfigError(key, f"{line}: a saved run is done again once", "to sweep, start from `zoo train` with an experiment of its own")
        if self.is_group(key):
            self._choose(tree, override, file)
            return
        *parents, leaf = key.split(".")
        node = tree
        for place, parent in enumerate(parents):
            if parent not in node and in_open(key) and not override.is_delete():
                node[parent] = {}
            if not isinstance(node.get(parent), dict):
                raise ConfigError(".".join(parents[: place + 1]), f"{file} has no such mapping", origin=f"the override {line}")
            node = node[parent]
        if override.is_delete():
            if leaf not in node:
                raise ConfigError(key, f"cannot be deleted, {file} has no such key", origin=f"the override {line}")
            del node[leaf]
            return
        value = override.value()
        wrapped = OmegaConf.create({"value": value})
        node[leaf] = self.guard([line], lambda: OmegaConf.to_container(wrapped, resolve=True))["value"]

    def _choose(self, tree: Tree, override: Override, file: Path) -> None:
        """A group's choice replaces the file's node by what a fresh composition gives."""
        line, group = override.input_line or "", override.key_or_group
        if group == "experiment":
            raise ConfigError("experiment", f"{line} is a run of its own and does not mix with {file}", f"start it alone: zoo train {line}")
        fresh = self.tree(self.compose([line]), [line])
        *parents, leaf = group.split("/")
        node = tree
        for parent in parents:
            fresh, node = fresh[parent], node[parent]
        node[leaf] = fresh.get(leaf)

    def is_group(self, key: str) -> bool:
        return bool(self.hydra.config_loader.get_group_options(key.split("@")[0]))

    # --- where a value came from --------------------------------------------------------------------------------------------------

    def origin(self, path: str, overrides: Sequence[str]) -> str | None:
        """The override or the file that a key was set by, the last one first."""
        if override := override_of(path, overrides):
            return override
        for source in reversed(self.sources(overrides)):
            inside = path if not source.package else path.removeprefix(f"{source.package}.")
            if (inside != path or not source.package) and _holds(source.tree, inside.replace("[", ".").split(".")):
                return source.file
        return None

    def sources(self, overrides: Sequence[str]) -> list[Source]:
        """The files that a composition was made of, in order."""
        defaults = self.hydra.config_loader.compute_defaults_list(self.config_name, opened(overrides), run_mode=RunMode.RUN)
        found = []
        for default in defaults.defaults:
            if default.config_path is None or default.config_path.startswith("hydra/"):
                continue
            loaded = self.hydra.config_loader.repository.load_config(default.config_path)
            if loaded is not None and loaded.path.startswith("file://"):
                file = Path(loaded.path.removeprefix("file://")) / f"{default.config_path.removesuffix('.yaml')}.yaml"
                found.append(Source(str(file), default.package or "", OmegaConf.to_container(loaded.config, resolve=False)))
        return found


def _refuse_run_dir(config: DictConfig, overrides: Sequence[str]) -> None:
    """``hydra.run.dir=`` of one run: Hydra would make that folder, and zoo put nothing into it."""
    typed = next((line for line in overrides if key_of(line) in ("hydra.run", "hydra.run.dir")), None)
    if typed is None or (folder := OmegaConf.to_container(config.hydra, resolve=False)["run"]["dir"]) == ".":  # type: ignore[index,call-overload]
        return
    problem = f"{folder!r} would stay empty: a run's directory is zoo's own, and has a key of its own"
    raise ConfigError("hydra.run.dir", problem, f"run_dir={folder}", "leave it out: runs/<name>/<time>", origin=f"the override {typed}")


def in_open(key: str) -> bool:
    """Whether a dotted key is one of ``OPEN`` or in one of them."""
    return any(under(key, place) for place in OPEN)


def opened(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: ``init_rename.a=b`` may bring a new key."""
    return [f"++{line}" if line[:1] not in ("+", "~") and "=" in line and in_open(key_of(line)) else line for line in overrides]


def override_of(path: str, overrides: Sequence[str]) -> str | None:
    """The override that a key was set by: the most exact one, and of equals the last, which wins."""
    best: tuple[int, int] | None = None
    for place, line in enumerate(overrides):
        key = key_of(line).replace("/", ".")
        if path == key or path.startswith((f"{key}.", f"{key}[")) or key.startswith(f"{path}."):
            best = max(best or (0, 0), (len(key), place))
    return f"the override {overrides[best[1]]}" if best else None


def _holds(tree: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return isinstance(tree, list)
        tree = tree[key]
    return True


def _search_path(config_dir: str | None) -> ConfigSearchPath:
    path: ConfigSearchPath = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    for folder in conf_dirs():
        path.append("main" if folder == conf_dir() else "user", f"file://{folder}")
    for plugin in Plugins.instance().discover(SearchPathPlugin):
        assert issubclass(plugin, SearchPathPlugin)
        plugin().manipulate_search_path(path)
    path.append("schema", "structured://")
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ZooError(f"--config-dir {config_dir}: there is no such folder")
        path.prepend(provider="command-line", path=f"file://{Path(config_dir).absolute()}", anchor=SearchPathQuery(provider="schema"))
    return path


def compose(overrides: Sequence[str] = (), *, config_name: str = PRIMARY, config_dir: str | None = None) -> RunConfig:
    """The checked config of one run.

        config = compose(["data=digits", "model/encoder=cnn_tiny", "trainer.max_steps=20"])

    Raises:
        ConfigError: with path, origin, near names and ways out.
    """
    with Composer(config_name, config_dir) as composer:
        return composer.run_config(composer.compose(overrides), overrides)
