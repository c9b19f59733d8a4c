"""Whether the weights' model computes what this one does: options that change no tensor's shape, and so would pass unseen."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.data.agreement import FOLDER
from zoo.errors import ZooError
from zoo.hub.bundle import CONFIG, PARTS
from zoo.hub.files import read_plain_yaml
from zoo.prefixes import longest

Node = Mapping[str, Any]
Differences = dict[str, list[Any]]
"""Dotted option -> its value in the weights' model, and here."""

OF_SHAPES = ("max_positions", "extra_rows", "patch_size")
"""Options that only say how many rows and columns there are: a tensor's shape tells of them."""
OF_HEADS = ("pooling",)
"""Of a head, what its tensors were trained behind; its other options are of the loss."""


def architecture_of(processor: Path | None) -> Node | None:
    """The ``model`` node of the weights' config, which lies beside their processor; None where none is on record."""
    file = None if processor is None else processor.parent / CONFIG
    if processor is None or processor.name != FOLDER or file is None or not file.is_file():
        return None
    node = read_plain_yaml(file).get("model")
    return node if isinstance(node, Mapping) else None


def differences(theirs: Node | None, ours: Node, taken: Sequence[str], rename: Mapping[str, str]) -> Differences:
    """Options of the parts whose tensors are taken over that are another in the weights' model.

    Args:
        theirs: its ``model`` node, if it is known.
        ours: that of the model.
        taken: names of the tensors that are taken over, as the model has them.
        rename: prefixes of their names, and the model's.
    """
    found: Differences = {}
    for before, now in (rename or {part: part for part in PARTS}).items():
        there, here = _at(theirs, before), _at(ours, now)
        if there is None or here is None or not any(longest(name, [now]) for name in taken):
            continue
        if there.get("name") != here.get("name"):
            found[f"model.{now}.name"] = [there.get("name"), here.get("name")]
        else:
            found |= _compared(_whole(there, before), here, f"model.{now}", OF_HEADS if now == "head" else ())
    return found


def told(found: Differences) -> str:
    """One line for people."""
    was = ", ".join(f"{option} was {before}, and is {now} here" for option, (before, now) in found.items())
    back = overrides(found)
    return f"warning: the weights are of a model in which {was}: the same tensors compute something else" + (f"\n  way out: {back}" if back else "")


def overrides(found: Differences) -> str:
    """What to type for the weights' own values; parts of another component are left out."""
    kept = {option: before for option, (before, _) in found.items() if not option.endswith(".name")}
    return " ".join(shlex.quote(f"{option}={_typed(before)}") for option, before in kept.items())


def _typed(value: Any) -> str:
    """A value as Hydra reads it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{','.join(map(_typed, value))}]"
        case Mapping():
            return "{" + ",".join(f"{key}:{_typed(entry)}" for key, entry in value.items()) + "}"
        case str() if not re.fullmatch(r"[\w./-]+", value):
            return "'" + value.replace("'", "\\'") + "'"
    return str(value)


def _at(node: Node | None, path: str) -> Node | None:
    """The component whose tensors are named so."""
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) and "name" in node else None


def _whole(node: Node, part: str) -> Node:
    """With the options that an older config had not yet, at their defaults."""
    registry = PARTS.get(part.partition(".")[0])
    try:
        return node if registry is None else registry.schema(str(node["name"])).defaults() | dict(node)
    except ZooError:  # a component that is not registered here: what its config says is compared
        return node


def _compared(there: Node, here: Node, path: str, only: Sequence[str]) -> Differences:
    found: Differences = {}
    for option, now in here.items():
        if option not in there or "drop" in option or option in OF_SHAPES or (only and option not in only):
            continue
        before, where = there[option], f"{path}.{option}"
        if isinstance(now, Mapping) and isinstance(before, Mapping):
            found |= _compared(before, now, where, ())
        elif before != now:
            found[where] = [before, now]
    return found
