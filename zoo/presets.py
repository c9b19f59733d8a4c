"""Presets and experiments as files, read without Hydra: for ``zoo list``, ``zoo show NAME`` and ``zoo.create``.

A preset is a small YAML beside its group's components: ``defaults: [vit, _self_]`` and a few options. The user's ./conf comes first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.config import read_yaml
from zoo.errors import RegistryError, ZooError, did_you_mean
from zoo.registry import KINDS

PRIMARY = "train"


def conf_dir() -> Path:
    """The conf that zoo ships: inside the wheel, or at the checkout's top."""
    here = Path(__file__).parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / f"{PRIMARY}.yaml").is_file():
            return folder
    raise AssertionError(f"zoo's own config files are neither in {here / 'conf'} nor in {here.parent / 'conf'}")


def conf_dirs() -> list[Path]:
    """Folders of configs, searched in this order."""
    own = Path.cwd() / "conf"
    return [own, conf_dir()] if own.is_dir() and own.resolve() != conf_dir().resolve() else [conf_dir()]


@dataclass(frozen=True)
class Preset:
    """One YAML file of a group."""

    group: str
    name: str
    file: Path

    @property
    def tree(self) -> dict[str, Any]:
        tree = read_yaml(self.file)
        if not isinstance(tree, dict | None):
            raise ZooError(f"{self.file}: a config is a mapping, not {tree!r}")
        return tree or {}

    @property
    def header(self) -> str:
        """The comment that the file begins with."""
        lines = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            if line.startswith("# @package"):
                continue
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").strip())
        return "\n".join(lines).strip()

    @property
    def bases(self) -> list[str]:
        """Other options of the same group that it stands on."""
        return [entry for entry in self.tree.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]

    @property
    def nested(self) -> list[tuple[str, str, str]]:
        """Group, place in the node, and option of what it nests: ``- /model/encoder@encoders.image: cnn_tiny``."""
        entries = [next(iter(entry.items())) for entry in self.tree.get("defaults", []) if isinstance(entry, dict)]
        return [(*key.lstrip("/").split("@", 1), option) for key, option in entries if "@" in key]


def merged(node: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` on top, mappings inside mappings included; a component of another name takes the place of the one before."""
    inner = {key: value for key, value in changes.items() if isinstance(value, dict) and isinstance(node.get(key), dict)}
    inner = {key: merged(node[key], value) for key, value in inner.items() if value.get("name") in (None, node[key].get("name"))}
    return node | changes | inner


def presets(group: str) -> dict[str, Preset]:
    """The presets of a group by name, sorted."""
    found: dict[str, Preset] = {}
    for folder in reversed(conf_dirs()):
        found |= {file.stem: Preset(group, file.stem, file) for file in (folder / group).glob("*.yaml")}
    return dict(sorted(found.items()))


def base_component(preset: Preset) -> str | None:
    """The registered component at the bottom of a preset, if there is one."""
    registered = next((entry for entry in KINDS.values() if entry.group == preset.group), None)
    known, seen = presets(preset.group), {preset.name}
    bases = preset.bases
    while bases:
        base = bases.pop(0)
        if base in known and base not in seen:
            seen.add(base)
            bases += known[base].bases
        elif registered and base in registered.names():
            return base
    return None


def preset_node(group: str, name: str) -> dict[str, Any]:
    """The unchecked node that choosing ``group=name`` gives; what stands under ``- /GROUP@place: NAME`` in a preset is put in its place.

    Raises:
        RegistryError: for an unknown name.
    """
    registered = next(entry for entry in KINDS.values() if entry.group == group)
    known = presets(group)
    if name in known:
        node: dict[str, Any] = {}
        for base in known[name].bases:
            node |= preset_node(group, base)
        for inner, place, option in known[name].nested:
            *parents, leaf = place.split(".")
            holder = node
            for parent in parents:
                holder = holder.setdefault(parent, {})
            holder[leaf] = preset_node(inner, option)
        return merged(node, {key: value for key, value in known[name].tree.items() if key != "defaults"})
    if name in registered.names():
        return {"name": name}
    raise RegistryError(f"no {registered.kind} and no preset is named {name!r}; {did_you_mean(name, [*registered.names(), *known])}")
