"""``zoo predict``: answers for files, texts, rows and identifiers."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from zoo.cli.output import DONE, USERS, only_json, say, say_json, table
from zoo.cli.parser import CommandParser
from zoo.errors import ZooError
from zoo.specs import InputSpec

HELP = """usage: zoo predict BUNDLE [FILE | FOLDER | WILDCARD | -] ... [options]

Answers of a finished model. BUNDLE is a bundle, a run's directory, or the name of a pretrained model.

  zoo predict BUNDLE picture.png holidays/ 'more/*.jpg'
  zoo predict BUNDLE --text "what a day" --text "oh no"        or text files (one answer each), or - (one a line of standard input)
  zoo predict BUNDLE sound.wav
  zoo predict BUNDLE rows.csv                                  or .tsv, .jsonl, .json: one answer a row; or --row '{"age": 3}'
  zoo predict BUNDLE --row '{"image": "a.png", "text": "a cat"}'  or rows.csv, rows.jsonl, for a model of several inputs
  zoo predict BUNDLE --text "In the beginning" --tokens 100    what follows, by a language model
  zoo predict BUNDLE --user 196                                or --items 50,181,258: what comes next after these

options
  --top K          labels or items of each answer (5)
  --tokens N       of a continuation (64); --temperature T draws it (0: the likeliest each time), by --seed S (0)
  --batch-size N   inputs that go through the model together (32); changes no answer
  --device D       auto, cpu, cuda ...
  --json --import X --debug as for every command: a list with one object per input

Exit code 0 when every input was answered, 2 when one could not be used: its reason stands in its place."""

WIDTH = 60
SHOWN_NUMBERS = 6
"""Of a vector; --json gives all."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser("predict", "zoo predict BUNDLE FILE ...")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--row", action="append", default=[])
    parser.add_argument("--user", action="append", default=[])
    parser.add_argument("--items", action="append", default=[])
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("files", nargs="*")
    return parser.parse_intermixed_args(list(arguments))


def run(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.help:
        say(HELP)
        return DONE
    if options.bundle is None:
        raise ZooError("zoo predict: which model?\n  way out: zoo predict BUNDLE FILE ...; a run's directory is a bundle too")
    from zoo.hub.bundle import open_bundle
    from zoo.hub.resolve import resolve

    folder = resolve(options.bundle)
    bundle = open_bundle(folder)  # what is wrong with it is told before torch is imported
    given = gather(options, bundle.inputs)
    with only_json(options.json):
        from zoo.inference.predictor import Predictor

        predictor = Predictor.load(folder, device=options.device)
        how = {"max_tokens": options.tokens, "temperature": options.temperature, "seed": options.seed}
        answers = predictor.predict(given, batch_size=options.batch_size, top_k=options.top, **how)
    if options.json:
        say_json(answers)
    else:
        say(render(answers))
    return USERS if any("error" in answer for answer in answers) else DONE


def gather(options: argparse.Namespace, inputs: Sequence[InputSpec]) -> list[Any]:
    """What was given on the command line, as ``Predictor.predict`` takes it.

    Args:
        options: parsed.
        inputs: of the model.

    Raises:
        ZooError: for nothing at all, and for options that belong to models of another kind.
    """
    from zoo.inference.inputs import SEVERAL, example, files

    kind = inputs[0].kind if len(inputs) == 1 else SEVERAL
    takes = kind if len(inputs) == 1 else f"several inputs ({', '.join(spec.name for spec in inputs)})"
    for flag, kinds in (("text", ("text",)), ("row", ("table", SEVERAL)), ("user", ("history",)), ("items", ("history",))):
        if getattr(options, flag) and kind not in kinds:
            raise ZooError(f"--{flag}: this model takes {takes}, not {kinds[0]}\n  way out: zoo predict {options.bundle} {example(inputs)}")
    given: list[Any] = [*options.text, *(_row(text) for text in options.row), *({"user": user} for user in options.user)]
    given += [{"items": [item.strip() for item in items.split(",") if item.strip()]} for items in options.items]
    if "-" in options.files:
        if kind not in ("text", "history"):
            raise ZooError(f"-: standard input is read as text, one a line; this model takes {takes}")
        lines = [line.rstrip("\n") for line in sys.stdin if line.strip()]
        given += lines if kind == "text" else [{"user": line.strip()} for line in lines]
    given += files([word for word in options.files if word != "-"], kind)
    if not given:
        raise ZooError(f"zoo predict: nothing to answer for\n  way out: zoo predict {options.bundle} {example(inputs)}")
    return given


def _row(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ZooError(f"--row {text!r}: not JSON: {error}\n  way out: --row '{{\"column\": 1.5}}'") from error
    if not isinstance(row, dict):
        raise ZooError(f"--row {text!r}: a row is an object with column names")
    return row


def render(answers: Sequence[dict[str, Any]]) -> str:
    """One line an answer: the input, the answer, and what else is to be said."""
    return table([[_clip(_plain(answer["input"])), *_noted(answer)] for answer in answers], ("input", "answer", ""))


def _noted(answer: dict[str, Any]) -> tuple[str, str]:
    said, also = _cells({key: value for key, value in answer.items() if key != "absent"})
    return said, "; ".join(filter(None, (also, f"without {' and '.join(answer['absent'])}" if "absent" in answer else "")))


def _cells(answer: dict[str, Any]) -> tuple[str, str]:
    match answer:
        case {"error": reason}:
            return "error", " ".join(str(reason).split())
        case {"label": label, "probability": probability, "probabilities": others}:
            also = ", ".join(f"{name} {share:.1%}" for name, share in others.items() if name != label)
            return f"{label} {probability:.1%}", f"then {also}" if also else ""
        case {"labels": labels, "probabilities": shares}:
            return ", ".join(labels) or "(none)", ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        case {"values": values}:
            return _plain(values), ""
        case {"vector": vector}:
            return f"{len(vector)} numbers: {_plain(vector[:SHOWN_NUMBERS])},...", ""
        case {"continuation": text}:
            return text, str(answer.get("note", ""))
        case {"top": top}:
            ranked = ", ".join(f"{entry['item']} {entry['title']}" if "title" in entry else str(entry["item"]) for entry in top)
            return ranked, str(answer.get("note", ""))
    return _plain({key: value for key, value in answer.items() if key != "input"}), ""


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ",".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clip(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= WIDTH else f"{flat[: WIDTH - 1]}…"
