"""``zoo list``: what there is to choose from. Imports neither torch nor Hydra."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from zoo.cli.output import DONE, say, say_json, table
from zoo.errors import ZooError, did_you_mean
from zoo.presets import Preset, base_component, presets
from zoo.registry import KINDS, plugin_errors
from zoo.schema import first_sentence

HELP = """usage: zoo list [KIND] [PATTERN] [--json]
       zoo list pretrained [PATTERN] [--task T] [--modality M] [--licence L] [--max-size MB]

  zoo list                     kinds, and how many there are of each
  zoo list encoder             components and presets, with a line about each
  zoo list encoder 'vit*'      those whose names match
  zoo list 'vit*'              of every kind
  zoo list experiment          whole runs, with what they cost and reach
  zoo list pretrained          models that can be used at once
  zoo list pretrained --task '*classification' --modality image --licence 'apache*' --max-size 20"""

FILTERS = ("--task", "--modality", "--licence", "--max-size")

PRESET_GROUPS = {"model": "model", "trainer": "trainer", "parallel": "parallel", "experiment": "experiment", "pretrained": "pretrained"}
"""Kinds that hold files only."""


def run(arguments: Sequence[str]) -> int:
    words, filters = split_filters([word for word in arguments if word != "--json"])
    as_json = "--json" in arguments
    if "--help" in words or "-h" in words:
        say(HELP)
        return DONE
    if unknown := [word for word in words if word.startswith("-")]:
        raise ZooError(f"zoo list has no option {unknown[0]}\n  way out: `zoo list --help`")
    if not words:
        rows = kinds()
        if as_json:
            say_json(rows)
        else:
            _say_kinds(rows)
        return DONE
    kind = find_kind(words[0], optional=len(words) == 1)
    if filters and kind != "pretrained":
        raise ZooError(
            f"{next(iter(filters))} is for pretrained models\n  way out: zoo list pretrained {' '.join(f'{key} {value}' for key, value in filters.items())}"
        )
    pattern = words[1] if len(words) > 1 else "*" if kind else words[0]
    entries = [entry for one in ([kind] if kind else [*KINDS, *PRESET_GROUPS]) for entry in entries_of(one, pattern)]
    if kind == "pretrained":
        entries = of_records(entries, filters)
    if as_json:
        say_json(entries)
    elif kind == "pretrained" and entries:
        _say_records(entries)
    elif kind == "pretrained" and (filters or pattern != "*"):
        raise ZooError("no pretrained model is like that\n  way out: `zoo list pretrained` shows all")
    elif kind == "pretrained" and not entries:
        say("no pretrained models are recorded\n")
        say("  A record is a file conf/pretrained/NAME.yaml that names a bundle. `zoo train` writes a bundle at the end of each run,")
        say("  and `zoo predict` and init= take its folder just as well as a name.")
    elif not entries:
        raise ZooError(f"nothing{f' of kind {kind}' if kind else ''} is named {pattern!r}\n  way out: `zoo list{f' {kind}' if kind else ''}` shows all")
    else:
        _say_entries(entries, of_one_kind=kind is not None)
    return DONE


def find_kind(word: str, *, optional: bool) -> str | None:
    """A kind by its name, its plural or its config group."""
    names = {kind: kind for kind in (*KINDS, *PRESET_GROUPS)}
    names |= {f"{kind}s": kind for kind in names} | {registry.group: registry.kind for registry in KINDS.values()}
    if word in names:
        return names[word]
    if optional and (any(sign in word for sign in "*?[") or any(entries_of(kind, word) for kind in (*KINDS, *PRESET_GROUPS))):
        return None
    raise ZooError(f"there is no kind of component named {word!r}; {did_you_mean(word, (*KINDS, *PRESET_GROUPS))}")


def split_filters(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """What is no filter, and the filters: ``--task X`` or ``--task=X``."""
    rest: list[str] = []
    filters: dict[str, str] = {}
    remaining = iter(words)
    for word in remaining:
        key, sign, value = word.partition("=")
        if key not in FILTERS:
            rest.append(word)
            continue
        filters[key] = value if sign else next(remaining, "")
        if not filters[key]:
            raise ZooError(f"{key}: what?\n  way out: {key} VALUE; shell wildcards are fine")
    return rest, filters


def of_records(entries: list[dict[str, Any]], filters: dict[str, str]) -> list[dict[str, Any]]:
    """Entries of pretrained models with what their records say, those that pass the filters."""
    from zoo.hub.records import record

    found, most = [], _megabytes(filters.get("--max-size"))
    for entry in entries:
        told = record(entry["name"])
        texts = {key.removeprefix("--"): pattern for key, pattern in filters.items() if key != "--max-size"}
        if told.matches(**texts) and told.size <= most:
            facts = {"task": told.task, "modality": told.modality, "architecture": told.architecture, "licence": told.licence, "size": told.size}
            found.append(entry | facts | {"parameters": told.parameters, "metrics": told.metrics, "sources": list(map(str, told.sources))})
    return found


def _megabytes(text: str | None) -> float:
    if text is None:
        return float("inf")
    try:
        size = float(text) * 1e6
    except ValueError:
        size = 0.0
    if not size > 0:  # nan is not either
        raise ZooError(f"--max-size {text}: a number of megabytes is needed, more than 0\n  way out: --max-size 20")
    return size


def choice(kind: str, group: str, name: str) -> str:
    """How a component or a preset is chosen. Nobody chooses a converter for training: a checkpoint's own config.json does, and a record may."""
    if kind == "converter":
        return f"format: {name}"
    return f"{'init' if kind == 'pretrained' else group}={name}"


CONVERTERS_ARE = (
    "a checkpoint's config.json says which one reads it; a record, conf/pretrained/NAME.yaml, has `format` and `options`; zoo export --as NAME writes"
)


def kinds() -> list[dict[str, Any]]:
    """Every kind with its counts."""
    rows = [
        {"kind": kind, "group": registry.group, "components": len(registry.names()), "presets": len(presets(registry.group))}
        for kind, registry in KINDS.items()
    ]
    return rows + [{"kind": kind, "group": group, "components": 0, "presets": len(presets(group))} for kind, group in PRESET_GROUPS.items()]


def entries_of(kind: str, pattern: str) -> list[dict[str, Any]]:
    """Components and presets of a kind whose names match."""
    registry = KINDS.get(kind)
    group = registry.group if registry else PRESET_GROUPS[kind]
    schemas = [registry.schema(name) for name in registry.names(pattern)] if registry else []
    entries: list[dict[str, Any]] = [
        {"name": schema.name, "kind": kind, "type": "component", "choose": choice(kind, group, schema.name), "summary": schema.summary, "origin": schema.origin}
        for schema in schemas
    ]
    for name, preset in presets(group).items():
        if fnmatchcase(name, pattern):
            base = base_component(preset)
            entries.append(
                {
                    "name": name,
                    "kind": kind,
                    "type": "preset",
                    "choose": choice(kind, group, name),
                    "summary": summary_of(preset, base),
                    "origin": str(preset.file),
                    "base": base,
                }
            )
    return sorted(entries, key=lambda entry: (entry["name"], entry["type"]))


def summary_of(preset: Preset, base: str | None) -> str:
    """The header's first sentence, or the options that the preset sets."""
    if preset.header:
        return first_sentence(preset.header.split("\n\n")[0])
    values = [f"{key}={value}" for key, value in preset.tree.items() if key != "defaults" and not isinstance(value, dict)]
    return f"{base or ', '.join(preset.bases) or preset.name}{' with ' if values else ''}{', '.join(values)}"


def _say_kinds(rows: list[dict[str, Any]]) -> None:
    say(
        table(
            [[row["kind"], row["components"] or "", row["presets"] or "", choice(row["kind"], row["group"], "NAME")] for row in rows],
            ["kind", "components", "presets", "choose with"],
        )
    )
    for plugin, reason in plugin_errors.items():
        say(f"\nthe plugin {plugin} could not be imported: {reason}")
    say("\n`zoo list KIND` names them, `zoo show NAME` explains one.")


def _say_records(entries: list[dict[str, Any]]) -> None:
    from zoo.hub.meter import size_of

    heads = ["name", "task", "licence", "size", "what it is"]
    say(table([[entry["name"], entry["task"], entry["licence"], size_of(entry["size"]), entry["summary"]] for entry in entries], heads))
    name = entries[0]["name"]
    say(f"\n`zoo predict {name} ...` uses it, `zoo pull {name}` fetches it, init={name} starts from its weights, `zoo show {name}` tells more")


def _say_entries(entries: list[dict[str, Any]], *, of_one_kind: bool) -> None:
    heads = ["name", *([] if of_one_kind else ["kind"]), "what it is"]
    rows = []
    for entry in entries:
        what = f"preset of {entry['base']}: {entry['summary']}" if entry.get("base") else entry["summary"]
        rows.append([entry["name"], *([] if of_one_kind else [entry["kind"]]), what])
    say(table(rows, heads))
    how = CONVERTERS_ARE if entries[0]["kind"] == "converter" else f"choose it with {entries[0]['choose']}"
    say(f"\n`zoo show {entries[0]['name']}` explains one; {how}")
