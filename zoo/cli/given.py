"""What people hand to ``zoo predict``, checked as early as it can be: words before anything is fetched, options before anything is loaded.

Imports no torch.
"""

import argparse
import glob
import shlex
import sys
from pathlib import Path
from typing import Any

from zoo.errors import DataError, ZooError
from zoo.files import home
from zoo.hub.bundle import Bundle, open_bundle
from zoo.hub.local import is_foreign
from zoo.hub.records import record
from zoo.hub.resolve import check_name
from zoo.inference.inputs import EXAMPLES, GIVES, ROWS, SEVERAL, example, files, is_there, matches
from zoo.inference.sampling import WRITING
from zoo.registry import HEADS

BELONGS = {
    "top": (("class", "taught", "item", "masked"), f"{GIVES['class']} or {GIVES['item']}"),
    "vectors": (("pair", "context"), "vectors"),
    **dict.fromkeys(WRITING, (("token",), GIVES["token"])),
}
"""Options that only some answers have: kinds of target, and how they are called."""
MODALITIES = {"audio": "spectrogram"}
"""Modality of a record -> kind of an input, where they have two names."""


def check_words(options: argparse.Namespace) -> None:
    """Refuse what cannot be answered whatever the model is, before it is fetched: a wrong name of it, no words, words none of which is a file.

    One file that is missing among others is told with their answers.

    Raises:
        ZooError: with the way out by what the model takes, as far as that is known.
    """
    _, shown = _known(options.bundle)
    others = [*options.text, *options.row, *options.user, *options.items, *(word for word in options.files if word == "-")]
    words = [word for word in options.files if word != "-"]
    if not others and not words:
        raise ZooError(f"zoo predict: nothing to answer for\n  way out: {_command(options, shown)}")
    missing = [word for word in words if not is_there(word)]
    if missing and len(missing) == len(words) and not others and not any(map(_matches, missing)):
        told = ", ".join(map(repr, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        problem = "no file matches" if all(map(glob.has_magic, missing)) else "no such file"
        raise ZooError(f"{told}: {problem} (in {Path.cwd()})\n  way out: {_instead(options, ' '.join(missing))}")
    for word in filter(glob.has_magic, missing):
        matches(word)


def _matches(word: str) -> bool:
    try:
        return glob.has_magic(word) and bool(matches(word))
    except DataError:
        return False


def _known(model: str) -> tuple[tuple[str, ...], str]:
    """Kinds of a model's inputs and what it takes as people would type it, without fetching it: by its bundle if it is here, or by its record.

    There are no kinds where it is an address, or a checkpoint that is to be converted: what that gives is not known yet.
    """
    here = home(model)
    if "://" in model or is_foreign(here):
        return (), "FILE, or --text, --row, --user as the model takes it"
    if is_there(model):
        inputs = open_bundle(here).inputs
        return tuple(spec.kind for spec in inputs), example(inputs)
    check_name(model)
    kinds = tuple(MODALITIES.get(modality, modality) for modality in record(model).modality.split("+"))
    return kinds, EXAMPLES.get(kinds[0], "FILE") if len(kinds) == 1 else "ROWS.csv"


def _instead(options: argparse.Namespace, words: str) -> str:
    kinds, shown = _known(options.bundle)
    text = _command(options, f"--text {shlex.quote(words)}")
    match kinds:
        case ("text",):
            return f"for a text itself: {text}"
        case ("history",):
            return f"for a user: {_command(options, f'--user {shlex.quote(words)}')}"
        case ():
            return f"a file that is there; for a text itself, if the model takes text: {text}"
    return _command(options, shown)


def _command(options: argparse.Namespace, rest: str) -> str:
    return f"zoo predict {shlex.quote(options.bundle)} {rest}"


def check_options(options: argparse.Namespace, bundle: Bundle) -> None:
    """Refuse options that would change nothing, by what the model answers with.

    Raises:
        ZooError: naming the option, and what the model does.
    """
    kinds = _answers(bundle)
    for flag, (belongs, named) in BELONGS.items():
        if (value := getattr(options, flag)) is not None and kinds and not kinds & set(belongs):
            gives = " or ".join(GIVES.get(kind, kind) for kind in sorted(kinds))
            raise ZooError(
                f"{_flag(flag, value)}: is for models that give {named}; this one gives {gives}, which it would not change\n"
                f"  way out: the same command without --{flag.replace('_', '-')}"
            )
    if options.seed is not None and not options.temperature:
        without = "without --temperature" if options.temperature is None else f"with --temperature {options.temperature:g}"
        raise ZooError(
            f"--seed {options.seed}: {without} the likeliest token is taken each time, and nothing is drawn\n"
            f"  way out: --temperature 0.7 --seed {options.seed}, or no --seed"
        )


def _flag(flag: str, value: Any) -> str:
    """An option as it was typed."""
    values = value if isinstance(value, list) else [value]
    return f"--{flag.replace('_', '-')}" + "".join(f" {entry}" for entry in values if entry is not True)


def _answers(bundle: Bundle) -> set[str]:
    """Kinds of target that the head may be of: one, unless data and head leave several open."""
    model = bundle.config["model"]
    takes = {name for wired in HEADS.schema(model["head"]["name"]).wired for name in wired.specs}
    targets = [target for target in bundle.spec.targets if model.get("target") in (None, target.name)]
    return {target.kind for target in targets if any(base.__name__ in takes for base in type(target).__mro__)}


def gather(options: argparse.Namespace, bundle: Bundle) -> list[Any]:
    """What was given on the command line, as ``Predictor.predict`` takes it.

    Args:
        options: parsed.
        bundle: of the model.

    Raises:
        ZooError: for options that belong to models of another kind, for folders without a file that fits, for nothing at all on standard input.
    """
    inputs = bundle.inputs
    kind = inputs[0].kind if len(inputs) == 1 else SEVERAL
    takes = kind if len(inputs) == 1 else f"several inputs ({', '.join(spec.name for spec in inputs)})"
    for flag, kinds in (("text", ("text", "dialogue")), ("row", (*ROWS, SEVERAL)), ("user", ("history",)), ("items", ("history",))):
        if getattr(options, flag) and kind not in kinds:
            raise ZooError(f"--{flag}: this model takes {takes}, not {kinds[0]}\n  way out: {_command(options, example(inputs))}")
    given: list[Any] = [*options.text, *options.row, *({"user": user} for user in options.user)]
    given += [{"items": [item.strip() for item in items.split(",") if item.strip()]} for items in options.items]
    if "-" in options.files:
        if kind not in ("text", "history"):
            raise ZooError(f"-: standard input is read as text, one a line; this model takes {takes}\n  way out: {_command(options, example(inputs))}")
        lines = [line.rstrip("\n") for line in sys.stdin if line.strip()]
        given += lines if kind == "text" else [{"user": line.strip()} for line in lines]
    given += files([word for word in options.files if word != "-"], kind)
    if not given:
        raise ZooError(f"zoo predict: nothing to answer for\n  way out: {_command(options, example(inputs))}")
    return given
