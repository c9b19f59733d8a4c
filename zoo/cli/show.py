"""``zoo show``: one component's options, from its source text; or a composed model, from the meta device."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from zoo.cli.list import CONVERTERS_ARE, PRESET_GROUPS, choice
from zoo.cli.output import DONE, only_json, say, say_json
from zoo.errors import RegistryError, ZooError, did_you_mean
from zoo.presets import Preset, base_component, presets
from zoo.registry import KINDS
from zoo.schema import Schema
from zoo.settings import GroupSettings, LoaderSettings, LoraSettings, ModelSettings, ParallelSettings, RunSettings, TrainerSettings

HELP = """usage: zoo show NAME [--json]
       zoo show [overrides] [--json]

  zoo show vit                            options of a component, with types, defaults and what they mean
  zoo show encoder/table                  where several kinds have one of that name
  zoo show vit_tiny                       a preset
  zoo show fashion_mnist_cnn              an experiment: question, command, hardware, expected figure
  zoo show trainer                        settings: trainer, data, parallel, model, lora, groups, run
  zoo show model/encoder=vit_tiny         the composed model: tree, shapes, parameters, FLOPs, memory"""

SETTINGS: dict[str, type] = {
    "run": RunSettings,
    "data": LoaderSettings,
    "model": ModelSettings,
    "lora": LoraSettings,
    "groups": GroupSettings,
    "trainer": TrainerSettings,
    "parallel": ParallelSettings,
}
Found = Schema | Preset | type


def run(arguments: Sequence[str]) -> int:
    words = [word for word in arguments if word != "--json"]
    as_json = "--json" in arguments
    if "--help" in words or "-h" in words:
        say(HELP)
        return DONE
    if unknown := [word for word in words if word.startswith("-")]:
        raise ZooError(f"zoo show has no option {unknown[0]}\n  way out: `zoo show --help`")
    if words and not any("=" in word or word.startswith("~") for word in words):
        trees = [describe(found) for word in words for found in find(word)]
        if as_json:
            say_json(trees if len(trees) > 1 else trees[0])
        else:
            say("\n\n".join(text_of(tree) for tree in trees))
        return DONE
    with only_json(as_json):
        from zoo.cli.composed import compose_and_measure, text_of_model

        tree = compose_and_measure(words)
    if as_json:
        say_json(tree)
    else:
        say(text_of_model(tree))
    return DONE


# --- what a name stands for -------------------------------------------------------------------------------------------------------


def find(word: str) -> list[Found]:
    """Components, presets, experiments and settings of that name; ``kind/name`` and ``group/name`` pick one.

    Raises:
        ZooError: with near names and the plugins that failed.
    """
    place, _, name = word.rpartition("/")
    found: list[Found] = []
    for kind, registry in KINDS.items():
        if place in ("", kind, registry.group):
            found += [registry.schema(name)] if name in registry.names() else []
            found += [preset] if (preset := presets(registry.group).get(name)) else []
    for group in PRESET_GROUPS.values():
        if place in ("", group) and (preset := presets(group).get(name)):
            found.append(preset)
    if not place and name in SETTINGS:
        found.append(SETTINGS[name])
    if not found:
        raise _unknown(word, name)
    return found


def _unknown(word: str, name: str) -> ZooError:
    known = {*SETTINGS}
    for registry in KINDS.values():
        known |= {*registry.names(), *presets(registry.group)}
    for group in PRESET_GROUPS.values():
        known |= set(presets(group))
    problem = ""
    try:
        KINDS["encoder"].schema(name)
    except RegistryError as error:
        problem = "\n".join(line for line in str(error).splitlines() if "could not be imported" in line)
    near_names = did_you_mean(name, known)
    lines = [
        f"nothing is named {word!r}; {near_names if near_names.startswith('did') else '`zoo list` shows what there is'}",
        problem,
        "  a component of your own: --import path/to/file.py",
    ]
    return ZooError("\n".join(line for line in lines if line))


def describe(found: Found) -> dict[str, Any]:
    """What ``--json`` gives."""
    if isinstance(found, Schema):
        registry = KINDS[found.kind]
        standing = [name for name, preset in presets(registry.group).items() if base_component(preset) == found.name]
        return {
            "name": found.name,
            "kind": found.kind,
            "type": "component",
            "choose": choice(found.kind, registry.group, found.name),
            "doc": found.doc,
            "options": [_option(option) for option in found.options],
            "wired": [{"name": wired.name, "takes": list(wired.specs), "optional": wired.optional} for wired in found.wired],
            "presets": standing,
            "origin": found.origin,
        }
    if isinstance(found, Preset):
        base = base_component(found)
        return {
            "name": found.name,
            "kind": next((kind for kind, registry in KINDS.items() if registry.group == found.group), found.group),
            "type": "preset",
            "choose": f"{'init' if found.group == 'pretrained' else found.group}={found.name}",
            "doc": found.header,
            "base": base,
            "values": {key: value for key, value in found.tree.items() if key != "defaults"},
            "defaults": found.tree.get("defaults", []),
            "origin": str(found.file),
        }
    from zoo.schema import settings_options

    name = next(name for name, settings in SETTINGS.items() if settings is found)
    doc = (found.__doc__ or "").strip()
    return {
        "name": name,
        "kind": "settings",
        "type": "settings",
        "doc": doc,
        "options": [_option(option) for option in settings_options(found)],
        "wired": [],
        "presets": [],
        "origin": "zoo/settings.py",
    }


def _option(option: Any) -> dict[str, Any]:
    return {
        "name": option.name,
        "type": str(option.type),
        "default": "???" if option.required else option.default,
        "required": option.required,
        "doc": option.doc,
    }


# --- as text ----------------------------------------------------------------------------------------------------------------------


def text_of(tree: dict[str, Any]) -> str:
    """For a person."""
    lines = [f"{tree['name']}  ({tree['kind']}{', a preset' if tree['type'] == 'preset' else ''})", ""]
    lines += [_doc_without_arguments(tree["doc"]), ""] if tree["doc"] else []
    if tree["type"] == "preset":
        return "\n".join([*lines, *_preset_lines(tree)])
    if tree["options"]:
        place = ", under `options` of a record, conf/pretrained/NAME.yaml" if tree["kind"] == "converter" else ""
        lines += [f"options{place}", *option_lines(tree["options"]), ""]
    if tree["wired"]:
        taken = [f"  {wired['name']}: {' or '.join(wired['takes'])}{' (where there is one)' if wired['optional'] else ''}" for wired in tree["wired"]]
        lines += ["filled in from the data and the parts before it; these are no options", *taken, ""]
    if tree["presets"]:
        lines += [f"presets  {', '.join(tree['presets'])}"]
    lines += [f"choose   {tree['choose']}{'; ' + CONVERTERS_ARE if tree['kind'] == 'converter' else ''}"] if "choose" in tree else []
    return "\n".join([*lines, f"source   {tree['origin']}"])


def option_lines(options: list[dict[str, Any]]) -> list[str]:
    heads = [f"  {option['name']}: {option['type']} {'(required)' if option['required'] else '= ' + _default(option['default'])}" for option in options]
    width = shutil.get_terminal_size((120, 24)).columns
    column = min(max((len(head) for head in heads), default=0), 48) + 2
    lines = []
    for head, option in zip(heads, options, strict=True):
        wrapped = textwrap.wrap(option["doc"], max(32, width - column)) or [""]
        first = f"{head:<{column}}{wrapped[0]}".rstrip() if len(head) < column else head
        lines += [first, *(" " * column + line for line in (wrapped[1:] if len(head) < column else wrapped))]
    return lines


def _default(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) or value == "" else value


def _doc_without_arguments(doc: str) -> str:
    return doc.split("\nArgs:")[0].split("\n    Args:")[0].strip()


def _preset_lines(tree: dict[str, Any]) -> list[str]:
    import yaml

    lines = [f"stands on {tree['base']}: `zoo show {tree['base']}` explains every option", ""] if tree["base"] else []
    lines += [yaml.safe_dump({"defaults": tree["defaults"]}, sort_keys=False).strip()] if tree["defaults"] else []
    lines += [yaml.safe_dump(tree["values"], sort_keys=False, allow_unicode=True).strip()] if tree["values"] else []
    return [*lines, "", f"choose   {tree['choose']}", f"source   {tree['origin']}"]
