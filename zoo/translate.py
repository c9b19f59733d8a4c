"""What Hydra, OmegaConf and YAML raise while a config is composed, told as zoo tells its own: path, problem, origin, ways out."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from zoo.config import PER_LABEL, paths_of_leaf
from zoo.errors import ConfigError, ZooError, did_you_mean, near
from zoo.registry import KINDS, plugin_errors

if TYPE_CHECKING:
    from zoo.compose import Composer

PRINT_KEYS = "`zoo train --cfg job` prints every key"


def explain(error: Exception, overrides: Sequence[str], composer: "Composer") -> ZooError | None:
    """The user's mistake behind an exception, or None where it is no such thing."""
    match error:
        case OverrideParseException():
            return _syntax(error)
        case MissingConfigException():
            return _missing(error, overrides)
        case ConfigCompositionException():
            return _Composition(error, overrides, composer).told()
        case yaml.YAMLError():
            return ZooError(
                f"a config file is no plain YAML: {_line(error)}\n  way out: names, values, lists and mappings only; quote what holds signs such as : and ["
            )
        case ValueError() if "Config group override must be" in str(error):
            return _null(overrides)
        case OmegaConfBaseException():
            return _omegaconf(error)
        case HydraException():
            return ZooError(_line(error))
    return None


def _line(text: object) -> str:
    return " ".join(str(text).split())


def key_of(override: str) -> str:
    """``+model/encoder@x=vit`` -> ``model/encoder``."""
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def _syntax(error: OverrideParseException) -> ConfigError:
    line = error.override
    if line.startswith("-"):
        return ConfigError("", f"there is no option {line}", "`zoo train --help` lists them; what is not an option has the form key=value")
    if "=" not in line:
        return ConfigError("", f"the override {line!r} is no key=value", "write key=value, group=NAME, +key=value to add, or ~key to delete")
    key = key_of(line)
    return ConfigError(key, f"the override {line!r} cannot be read: {_line(error.message)}", f"quote the value for the shell and for Hydra: '{key}=\"...\"'")


def _null(overrides: Sequence[str]) -> ConfigError:
    """``optimizer=null``: Hydra has a sign of its own for it."""
    line = next((line for line in overrides if line.partition("=")[2].strip() in ("null", "")), "")
    key = key_of(line)
    return ConfigError(
        key.replace("/", "."),
        f"{line}: a choice of {key} cannot be null",
        f"choose one: {key}=NAME",
        f"where none is needed: ~{key}",
        origin=f"the override {line}",
    )


def _missing(error: MissingConfigException, overrides: Sequence[str]) -> ConfigError:
    """A group's option, or a whole config file, that does not exist."""
    wanted = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = wanted.rpartition("/")
    options = sorted(error.options or [])
    if not group:
        ways = "files at the top of ./conf, of --config-dir and of zoo's own conf can be named; zoo's own is `train`"
        return ConfigError("--config-name", f"there is no config named {wanted!r}", ways)
    line = next((line for line in overrides if key_of(line) == group), None)
    inside = re.match(r"In '([^']+)'", str(error))
    origin = f"the override {line}" if line else f"the defaults of {inside.group(1)}" if inside else None
    ways_out = [did_you_mean(name, options) if options else f"the group {group} has no options"]
    ways_out += [f"all: {', '.join(options)}"] if near(name, options) else []
    ways_out += [f"the plugin {plugin} could not be imported: {reason}" for plugin, reason in plugin_errors.items()]
    ways_out += ["a component of your own: --import path/to/file.py", f"a preset of your own: ./conf/{group}/{name}.yaml"]
    return ConfigError(group.replace("/", "."), f"{group} has no option {name!r}", *ways_out, origin=origin)


def _omegaconf(error: OmegaConfBaseException) -> ConfigError:
    """What goes wrong when a composed config is resolved."""
    way = "write the value itself, or name a key that exists in ${...}" if "nterpolation" in f"{type(error).__name__}{error}" else PRINT_KEYS
    return ConfigError(str(error.full_key or ""), str(error).split("\n")[0], way)


class _Composition:
    """One failed composition: Hydra's text says what kind of failure it is."""

    def __init__(self, error: ConfigCompositionException, overrides: Sequence[str], composer: "Composer") -> None:
        self.error, self.overrides, self.composer, self.text = error, overrides, composer, str(error)

    def told(self) -> ZooError:
        for pattern, tell in (
            (r"Could not override '([^']+)'", self.no_such_key),
            (r"but config group '([^']+)' does not exist", self.no_such_key),
            (r"Could not delete\. No match for '([^']+)'", self.no_such_key),
            (r"You must specify '([^']+)'", self.not_chosen),
            (r"Ambiguous value for argument '([^'=]+=[^']*)'", self.several_values),
            (r"Sweep parameters '([^']+)' requires --multirun", self.several_values),
            (r"An item is already at '([^']+)'", self.there_already),
            (r"Could not delete from config\.[^']*'([^']+)'", self.nothing_to_delete),
            (r"Multiple values for ([\w/@]+)", self.chosen_twice),
            (r"Error merging override (.*)", self.does_not_fit),
        ):
            if match := re.search(pattern, self.text):
                return tell(match.group(1))
        detail = _line(self.text or self.error.__cause__)
        return ZooError(f"the config cannot be composed: {detail}\n  way out: `zoo train --info defaults-tree` shows which file takes in which")

    def origin(self, key: str) -> str | None:
        line = next((line for line in self.overrides if key_of(line) == key.split("@")[0]), None)
        return f"the override {line}" if line else None

    def no_such_key(self, key: str) -> ConfigError:
        origin = self.origin(key)
        value = origin.partition("=")[2] if origin else "..."
        dotted = key.replace("/", ".")
        inner = re.search(r"full_key: (\S+)", str(self.error.__cause__))
        if inner and inner.group(1).startswith(f"{dotted}.") and dotted in self.paths():  # trainer={x: 1}
            ways = [self.near_places(inner.group(1)), PRINT_KEYS]
            return ConfigError(inner.group(1), f"there is no such key in the config: {inner.group(1)}", *ways, origin=origin)
        if key in self.groups():
            return ConfigError(dotted, f"nothing in this composition takes a choice of {key}", *self.takers(key), "leave it out", origin=origin)
        ways = self.not_chosen_yet(dotted) or self.other_places(key, value) or [self.near_places(key)]
        keys = "`zoo train --cfg hydra` prints every key of Hydra's" if key.startswith("hydra.") else PRINT_KEYS
        return ConfigError(dotted, f"there is no such key in the config: {key}", *ways, keys, origin=origin)

    def takers(self, group: str) -> list[str]:
        """Components with an option that this group fills: ``data/tokenizer`` -> the datasets of text."""
        parent, _, leaf = group.rpartition("/")
        names = [
            schema.name for registry in KINDS.values() if registry.group == parent for schema in map(registry.schema, registry.names()) if schema.option(leaf)
        ]
        return [f"choose one that does: {parent}={'|'.join(names)}"] if names else []

    def not_chosen_yet(self, dotted: str) -> list[str]:
        """``logger.wandb.project`` without ``logger=wandb``."""
        if any(path.rpartition(".")[0] == dotted.rpartition(".")[0] for path in self.paths()):
            return []
        for registry in KINDS.values():
            label = dotted.removeprefix(f"{registry.group.replace('/', '.')}.").split(".")[0]
            if registry.kind in PER_LABEL and dotted.startswith(registry.group.replace("/", ".")) and label in registry.names():
                return [f"choose it first: {registry.group}=[{label}]"]
        return []

    def other_places(self, key: str, value: str) -> list[str]:
        """The same name with the other sign, or in another place: ``trainer/max_steps``, ``model.encoder``, ``max_steps``."""
        paths, groups = self.paths(), self.groups()
        dotted, slashed, leaf = key.replace("/", "."), key.replace(".", "/"), re.split(r"[./]", key)[-1]
        if dotted != key and dotted in paths:
            return [f"a dot for a single option: {dotted}={value}"]
        if slashed != key and slashed in groups:
            return [f"a slash for a group: {slashed}={value}"]
        found = [group for group in groups if group.rpartition("/")[2] == leaf and group != key]
        found = found or [path for path in paths if path.rpartition(".")[2] == leaf and path != dotted]
        found = found or [path for path in paths_of_leaf(leaf) if "=" not in path and path != dotted]
        return [f"{place}={value}" for place in found[:3]]

    def near_places(self, key: str) -> str:
        """Names like it: beside it first, then anywhere."""
        dotted = key.replace("/", ".")
        paths = [path for path in self.paths() if not path.endswith("._target_") and path != dotted]  # _target_: of Hydra's own parts, which no one sets
        parent, _, leaf = dotted.rpartition(".")
        beside = {path.rpartition(".")[2]: path for path in paths if path.rpartition(".")[0] == parent}
        anywhere = {re.split(r"[./]", place)[-1]: place for place in [*paths, *self.groups()]}
        for known in (beside or anywhere, {} if parent in paths else anywhere):
            if close := near(leaf, known):
                return f"did you mean {' or '.join(repr(known[name]) for name in close)}?"
        return did_you_mean(dotted, list(beside.values()) or [path for path in paths if "." not in path])

    def not_chosen(self, group: str) -> ConfigError:
        options = self.composer.hydra.config_loader.get_group_options(group)
        return ConfigError(group.replace("/", "."), f"has to be chosen: {group}=NAME", f"known: {', '.join(sorted(options))}")

    def several_values(self, line: str) -> ConfigError:
        key, _, value = line.partition("=")
        ways = [f"a sweep over them: zoo train -m {key}={value}"]
        ways += [f"a list: {key}=[{value}]", f"one string: {key}=\\'{value}\\'"] if "(" not in value else []
        return ConfigError(key, f"{value!r} is several values", *ways, origin=self.origin(key))

    def there_already(self, key: str) -> ConfigError:
        way = f"leave the + out: {key}=..."
        return ConfigError(key, "is there already, so that + cannot add it", way, f"a second +, to add or override: ++{key}=...", origin=self.origin(key))

    def nothing_to_delete(self, key: str) -> ConfigError:
        value = re.search(rf"The value of '{re.escape(key)}' is (.*?) and not", self.text)
        problem = f"cannot be deleted as {self.origin(key)} says: its value is {value.group(1)}" if value else "cannot be deleted: it has no value"
        return ConfigError(key, problem, "leave the override out", self.near_places(key), origin=self.origin(key))

    def chosen_twice(self, group: str) -> ConfigError:
        way = "in a config file's defaults: `- override /GROUP: NAME` in place of `- GROUP: NAME`"
        return ConfigError(group, "is chosen twice", f"to choose another: {group}=NAME, without a +", way, origin=self.origin(group))

    def does_not_fit(self, line: str) -> ConfigError:
        key = key_of(line)
        cause = self.error.__cause__ or self.error.__context__
        way = "an option of a component is set with dots, a whole component is chosen as a group, with a slash: model/encoder=NAME"
        return ConfigError(key, f"cannot be set: {_line(str(cause).split(chr(10))[0])}", way, PRINT_KEYS, origin=f"the override {line}")

    def paths(self) -> list[str]:
        """Dotted paths of the composition before its overrides."""
        config = _composed_so_far(self.error) or self._defaults()
        found: list[str] = []

        def walk(node: Any, path: str) -> None:
            if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
                for key in node:
                    if (where := f"{path}.{key!s}".lstrip(".")) != "hydra" or self.text.find("'hydra.") >= 0:
                        found.append(where)
                        walk(node._get_node(key), where)

        walk(config, "")
        return found

    def _defaults(self) -> DictConfig | None:
        try:
            defaults: DictConfig = self.composer.hydra.config_loader.load_configuration(self.composer.config_name, [], run_mode=RunMode.RUN)
            return defaults
        except (HydraException, OmegaConfBaseException, yaml.YAMLError):  # the defaults themselves do not compose: no near names then
            return None

    def groups(self) -> list[str]:
        """Config groups of zoo and of the user, at any depth."""
        repository = self.composer.hydra.config_loader.repository

        def inside(parent: str) -> list[str]:
            names = repository.get_group_options(parent, ObjectType.GROUP)
            found = [f"{parent}/{name}".lstrip("/") for name in names if name != "hydra"]
            return found + [deeper for group in found for deeper in inside(group)]

        return inside("")


def _composed_so_far(error: BaseException) -> DictConfig | None:
    """The config that Hydra was applying overrides to: composing it again would cost as much as the whole answer."""
    chain: list[BaseException] = [error]
    while following := (chain[-1].__cause__ or chain[-1].__context__):
        chain.append(following)
    for link in chain:
        trace = link.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_name == "_apply_overrides_to_config":
                config = trace.tb_frame.f_locals.get("cfg")
                return config if isinstance(config, DictConfig) else None
            trace = trace.tb_next
    return None
