"""What Hydra, OmegaConf and YAML raise while a config is composed, told as zoo tells its own: path, problem, origin, ways out."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException, SearchPathException
from omegaconf.errors import OmegaConfBaseException

from zoo.config import paths_of_leaf
from zoo.errors import ConfigError, ZooError, did_you_mean, near
from zoo.registry import plugin_errors

if TYPE_CHECKING:
    from zoo.compose import Composer


def explain(error: Exception, overrides: Sequence[str], composer: "Composer") -> ZooError | None:
    """The user's mistake behind an exception, or None where it is no such thing."""
    match error:
        case OverrideParseException():
            return _syntax(error)
        case MissingConfigException():
            return _missing(error, overrides)
        case yaml.YAMLError():
            return ZooError(f"a config file is no plain YAML: {' '.join(str(error).split())}")
        case SearchPathException():
            return ZooError(str(error))
        case ConfigCompositionException():
            return _composition(error, overrides, composer)
        case OmegaConfBaseException():
            return _omegaconf(error)
        case HydraException():
            return ZooError(" ".join(str(error).split()))
    return None


def _syntax(error: OverrideParseException) -> ConfigError:
    line = error.override
    if line.startswith("-"):
        return ConfigError("", f"there is no option {line}", "`zoo train --help` lists them; what is not an option has the form key=value")
    if "=" not in line:
        return ConfigError("", f"the override {line!r} is no key=value", "write key=value, group=NAME, +key=value to add, or ~key to delete")
    key = line.split("=", 1)[0]
    return ConfigError(key, f"the override {line!r} cannot be read: {' '.join(error.message.split())}", f"quote the value for the shell and for Hydra: '{key}=\"...\"'")


def _missing(error: MissingConfigException, overrides: Sequence[str]) -> ConfigError:
    wanted = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = wanted.rpartition("/")
    options = sorted(error.options or [])
    if not group:
        return ConfigError("--config-name", f"there is no config named {wanted!r}", "the files at the top of ./conf, of --config-dir and of zoo's own conf can be named; zoo's own is `train`")
    inside = re.match(r"In '([^']+)'", str(error))
    line = next((line for line in overrides if line.lstrip("+").split("=", 1)[0].split("@")[0] == group), None)
    ways = [did_you_mean(name, options)] if options else [f"the group {group} has no options"]
    ways += [f"all: {', '.join(options)}"] if options and near(name, options) else []
    ways += [f"the plugin {plugin} could not be imported: {reason}" for plugin, reason in plugin_errors.items()]
    ways += ["a component of your own: --import path/to/file.py", f"a preset of your own: ./conf/{group}/{name}.yaml"]
    return ConfigError(group.replace("/", "."), f"{group} has no option {name!r}", *ways, origin=f"the override {line}" if line else f"the defaults of {inside.group(1)}" if inside else None)


def _composition(error: ConfigCompositionException, overrides: Sequence[str], composer: "Composer") -> ZooError:
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _no_such_key(match.group(1), overrides, composer)
    if match := re.search(r"looks like a config group override, but config group '([^']+)' does not", text):
        return _no_such_key(match.group(1), overrides, composer)
    if match := re.search(r"You must specify '([^']+)'", text):
        group = match.group(1)
        options = composer.hydra.config_loader.get_group_options(group)
        return ConfigError(group.replace("/", "."), f"has to be chosen: {group}=NAME", f"known: {', '.join(sorted(options))}")
    if match := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        key, value = match.groups()
        return ConfigError(key, f"{value!r} is several values", f"a list: {key}=[{value}]", f"a sweep over them: zoo train -m {key}={value}", f"one string: {key}=\\'{value}\\'")
    if match := re.search(r"Sweep parameters '([^']+)' requires --multirun", text):
        return ConfigError(match.group(1).split("=")[0], f"{match.group(1)} is a sweep", "run it as one: zoo train -m ...")
    if match := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return ConfigError(match.group(1), "is there already, so that + cannot add it", f"leave the + out: {match.group(1)}=...", f"a second +, to add or override: ++{match.group(1)}=...")
    if match := re.search(r"Could not delete from config\. (?:The value of )?'([^']+)'(.*)", text, re.DOTALL):
        return ConfigError(match.group(1), f"cannot be deleted: it{' '.join(match.group(2).split()) and ' ' + ' '.join(match.group(2).split())}", "leave the override out", did_you_mean(match.group(1), known_paths(composer)))
    if match := re.search(r"Could not delete\. No match for '([^']+)'", text):
        return _no_such_key(match.group(1), overrides, composer)
    if match := re.search(r"Multiple values for ([\w/@]+)", text):
        return ConfigError(match.group(1), "is chosen twice", f"to choose another: {match.group(1)}=NAME, without the +", "in a config file's defaults, write `- override /GROUP: NAME` in place of `- GROUP: NAME`")
    if match := re.search(r"Error merging override (.*)", text):
        line = match.group(1).strip()
        cause = error.__cause__ or error.__context__
        key = line.split("=", 1)[0].lstrip("+~")
        reason = " ".join(str(cause).split("\n")[0].split()) if cause else "it does not fit there"
        return ConfigError(key, f"cannot be set: {reason}", did_you_mean(key, known_paths(composer)), f"whole components are chosen as a group: {key.split('.')[0]}=NAME, with a slash where groups nest", origin=f"the override {line}")
    cause = error.__cause__
    detail = " ".join((text or str(cause)).split())
    return ZooError(f"the config cannot be composed: {detail}\n  way out: `zoo train --info defaults-tree` shows which file takes in which")


def _no_such_key(key: str, overrides: Sequence[str], composer: "Composer") -> ConfigError:
    line = next((line for line in overrides if line.lstrip("+~").split("=", 1)[0].split("@")[0] == key), key)
    value = line.split("=", 1)[1] if "=" in line else ""
    paths, groups = known_paths(composer), known_groups(composer)
    dotted, leaf = key.replace("/", "."), re.split(r"[./]", key)[-1]
    ways: list[str] = []
    if dotted != key and dotted in paths:
        ways.append(f"a dot for a single option: {dotted}={value}")
    if key.replace(".", "/") in groups and key.replace(".", "/") != key:
        ways.append(f"a slash for a group: {key.replace('.', '/')}={value}")
    ways += [f"{group}={value}" for group in groups if group.rpartition("/")[2] == leaf and group != key and not ways][:2]
    ways += [f"{path}={value}" for path in paths if path.rpartition(".")[2] == leaf and path != dotted and not ways][:3]
    ways += [f"{path}={value}" for path in paths_of_leaf(leaf) if "=" not in path and not ways][:3]
    if not ways:
        parent = dotted.rpartition(".")[0]
        beside = [path for path in paths if path.rpartition(".")[0] == parent]
        leaves = {path.rpartition(".")[2]: path for path in [*paths, *groups]}
        close = [f"{parent}.{name}".lstrip(".") for name in near(leaf, [path.rpartition(".")[2] for path in beside])] or near(dotted, paths) or [leaves[name] for name in near(leaf, leaves)] or near(key, groups)
        ways.append(f"did you mean {' or '.join(repr(name) for name in close)}?" if close else did_you_mean(dotted, beside or [path for path in paths if "." not in path]))
    ways.append("`zoo train --cfg job` prints every key")
    return ConfigError(dotted, f"there is no such key in the config: {key}", *ways, origin=f"the override {line}")


def _omegaconf(error: OmegaConfBaseException) -> ConfigError:
    reason = str(error).split("\n")[0]
    return ConfigError(error.full_key or "", reason, "write the value itself, or name a key that exists in ${...}" if "nterpolation" in type(error).__name__ + reason else "`zoo train --cfg job` prints every key")


def known_paths(composer: "Composer") -> list[str]:
    """Dotted paths of the default composition."""
    try:
        config = composer.hydra.config_loader.load_configuration(composer.config_name, [], run_mode=_run())
    except (HydraException, OmegaConfBaseException, yaml.YAMLError):  # the defaults themselves do not compose: then near names are not to be had
        return []
    found: list[str] = []

    def walk(node: object, path: str) -> None:
        from omegaconf import DictConfig

        if isinstance(node, DictConfig):
            for key in node:
                if (where := f"{path}.{key}".lstrip(".")) != "hydra" and not node._is_missing():
                    found.append(where)
                    walk(node._get_node(key), where)

    walk(config, "")
    return found


def known_groups(composer: "Composer") -> list[str]:
    """Config groups of zoo and of the user, at any depth."""

    def inside(parent: str) -> list[str]:
        names = composer.hydra.config_loader.get_group_options(parent, ObjectType.GROUP)
        found = [f"{parent}/{name}".lstrip("/") for name in names if name != "hydra"]
        return found + [deeper for group in found for deeper in inside(group)]

    return inside("")


def _run() -> object:
    from hydra.types import RunMode

    return RunMode.RUN
