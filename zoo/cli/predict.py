"""``zoo predict``: answers for files, texts, rows and identifiers."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.cli.output import DONE, USERS, note, only_json, say, say_json, table
from zoo.cli.parser import CommandParser
from zoo.errors import ConfigError, ZooError
from zoo.inference.sampling import WRITING, Sampling

HELP = """usage: zoo predict BUNDLE [FILE | FOLDER | WILDCARD | -] ... [options]

Answers of a finished model. BUNDLE is a bundle, a run's directory, the name of a pretrained model, a folder as transformers
or timm saved it, or an address (hf://, timm://, https://...#sha256=, pypi://).

  zoo predict BUNDLE picture.png holidays/ 'more/*.jpg'
  zoo predict BUNDLE --text "what a day" --text "oh no"        or text files (one answer each), or - (one a line of standard input)
  zoo predict BUNDLE sound.wav
  zoo predict BUNDLE rows.csv                                  or .tsv, .jsonl, .json: one answer a row; or --row '{"age": 3}'
  zoo predict BUNDLE --row '{"image": "a.png", "text": "a cat"}'  or rows.csv, rows.jsonl, for a model of several inputs
  zoo predict BUNDLE --text "In the beginning" --tokens 100    what follows, by a language model
  zoo predict BUNDLE --text "a green hill" --beams 4           what a decoder writes of it: a translation, a summary
  zoo predict BUNDLE --user 196                                or --items 50,181,258: what comes next after these

options
  --top K          labels or items of each answer (5)
  --tokens N       of a text that is written (64); --stop TEXT ends it there; --stream shows it as it is written
  --temperature T  draws each token (0: the likeliest each time), by --seed S (0), of the likeliest --top-k K, of those that make up --top-p P
                   of the distribution, of those at least --min-p P times as likely as the likeliest
  --repetition-penalty R   makes what is there already less likely (1: not)
  --beams N        followed side by side; --length-penalty P: above 0 longer ones gain (1)
  --vectors FILE   of models that give vectors: write them to FILE (.npy, with names in FILE.json, or .parquet) for `zoo neighbours`
  --batch-size N   inputs that go through the model together (32); changes no answer
  --device D       auto, cpu, cuda ...
  --json --import X --debug as for every command: a list with one object per input

An option that would not change the model's answers is refused. Exit code 0 when every input was answered, 2 when one
could not be used: its reason stands in its place."""

WIDTH = 60
SHOWN_NUMBERS = 6
"""Of a vector; --json gives all."""


def whole(least: int) -> Callable[[str], int]:
    """The type of an option that counts: a whole number, ``least`` or more."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} has to be a whole number, {least} or more")
        return number

    return read


def number(text: str) -> float:
    """The type of an option that is a finite number, 0 or more."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} has to be a number, 0 or more")
    return found


def row(text: str) -> dict[str, Any]:
    """A ``--row``.

    Raises:
        ZooError: for what is no JSON object.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ZooError(f"--row {text!r}: not JSON: {error}\n  way out: --row '{{\"column\": 1.5}}'") from error
    if not isinstance(found, dict):
        raise ZooError(f"--row {text!r}: a row is an object with column names\n  way out: --row '{{\"column\": 1.5}}'")
    return found


def parse(arguments: Sequence[str]) -> argparse.Namespace | None:
    """Options that are not given are None where the predictor has a default of its own; None in all where help was asked for."""
    parser = CommandParser("predict", "zoo predict BUNDLE FILE ...")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--row", action="append", default=[])
    parser.add_argument("--user", action="append", default=[])
    parser.add_argument("--items", action="append", default=[])
    parser.add_argument("--top", type=whole(1))
    parser.add_argument("--tokens", type=whole(1))
    parser.add_argument("--temperature", type=number)
    parser.add_argument("--seed", type=whole(0))
    parser.add_argument("--top-k", type=whole(1))
    parser.add_argument("--top-p", type=number)
    parser.add_argument("--min-p", type=number)
    parser.add_argument("--repetition-penalty", type=number)
    parser.add_argument("--beams", type=whole(1))
    parser.add_argument("--length-penalty", type=float)
    parser.add_argument("--stop", action="append")
    parser.add_argument("--stream", action="store_const", const=True)
    parser.add_argument("--vectors")
    parser.add_argument("--batch-size", type=whole(1))
    parser.add_argument("--device", default="auto")
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("files", nargs="*")
    options = parser.options_of(arguments, HELP, ("bundle", "which model?"))
    if options is not None:
        options.row = list(map(row, options.row))
    return options


def run(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options is None:
        return DONE
    from zoo.cli.given import check_options, check_words, gather
    from zoo.hub.bundle import open_bundle
    from zoo.hub.resolve import resolve

    if options.vectors is not None:
        from zoo.inference.vectors import checked_path

        checked_path(options.vectors)
    check_words(options)
    folder = resolve(options.bundle)
    bundle = open_bundle(folder)  # what is wrong with it is told before torch is imported
    check_options(options, bundle)
    sampling = sampling_of(options)
    given = gather(options, bundle)
    if options.stream:
        return stream(folder, given, sampling, options)
    with only_json(options.json):
        answers = predicted(folder, given, sampling, options)
        if options.vectors is not None:
            answers = written(answers, options.vectors)
    if options.json:
        say_json(answers)
    else:
        say(render(answers))
    if failed := sum("error" in answer for answer in answers):
        note(f"{failed} of {len(answers)} inputs could not be used; the reason stands in its place")
    return USERS if failed else DONE


def sampling_of(options: argparse.Namespace) -> Sampling | None:
    """How a text is to be written; None where nothing was said of it.

    Raises:
        ZooError: for what does not fit each other.
    """
    told = {"max_tokens": options.tokens} | {name: getattr(options, name) for name in WRITING if name not in ("tokens", "stream")}
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items() if value is not None}
    return Sampling(**told) if told else None


def stream(folder: Path, given: Sequence[Any], sampling: Sampling | None, options: argparse.Namespace) -> int:
    """Each text as it is written, and a line's end after it.

    Raises:
        ZooError: where --json or beams were asked for too.
    """
    if options.json:
        raise ZooError("--stream: with --json there is one document, when all is done\n  way out: one of the two")
    if sampling is not None and sampling.beams > 1:
        raise ZooError(f"--stream: {sampling.beams} beams are compared when they are done, and nothing is known of the text before\n  way out: without --beams")
    from zoo.inference.predictor import Predictor

    predictor = Predictor.load(folder, device=checked_device(options.device))
    for raw in given:
        for piece in predictor.stream(raw, sampling):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    return DONE


def predicted(folder: Path, given: Sequence[Any], sampling: Sampling | None, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The predictor's answers; it has the defaults of what was not asked for."""
    from zoo.inference.predictor import Predictor

    how = {"batch_size": options.batch_size, "top_k": options.top, "sampling": sampling}
    predictor = Predictor.load(folder, device=checked_device(options.device))
    return predictor.predict(given, **{name: value for name, value in how.items() if value is not None})


def written(answers: Sequence[dict[str, Any]], file: str) -> list[dict[str, Any]]:
    """The vectors of the answers in a file; in their place the answers have the row that theirs is.

    Raises:
        ZooError: where there are none to write.
    """
    import numpy as np

    from zoo.inference.vectors import Vectors, checked_path, save_vectors

    good = [answer for answer in answers if "error" not in answer]
    if not good or any("vector" not in answer for answer in good):
        given = f"answers with {', '.join(key for key in good[0] if key != 'input')}" if good else "no answer to any of the inputs"
        raise ZooError(f"--vectors {file}: the model gives {given}, and no vectors to write\n  way out: the same command without --vectors")
    path = checked_path(file)
    save_vectors(path, Vectors([_plain(answer["input"]) for answer in good], np.array([answer["vector"] for answer in good], dtype=np.float32)))
    note(f"{len(good)} vectors of {len(good[0]['vector'])} numbers are in {path}; zoo neighbours {path} --of NAME")
    rows = iter(range(len(good)))
    return [answer if "error" in answer else {key: value for key, value in answer.items() if key != "vector"} | {"row": next(rows)} for answer in answers]


def checked_device(wanted: str) -> str:
    """A device of this machine, before a model is loaded for it.

    Raises:
        ZooError: naming the option that was typed.
    """
    from zoo.parallel.device import choose_device

    try:
        return str(choose_device(wanted))
    except ConfigError as error:
        raise ZooError(f"--device {wanted}: {error.problem}\n  way out: --device auto, or cpu") from error


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
        case {"row": row}:
            return f"row {row}", ""
        case {"vector": vector}:
            return f"{len(vector)} numbers: {_plain(vector[:SHOWN_NUMBERS])},...", ""
        case {"continuation": text} | {"text": text} | {"reply": text}:
            return text, str(answer.get("note", ""))
        case {"words": words}:
            spans = [f"{span['kind']}: {span['text']}" for span in answer["spans"]] if "spans" in answer else []
            tagged = ", ".join(spans) or "(none)" if "spans" in answer else " ".join(f"{entry['word']}/{entry['tag']}" for entry in words)
            return tagged, str(answer.get("note", ""))
        case {"filled": text, "masked": masked}:
            told = ["|".join(f"{entry['token']} {entry['probability']:.1%}" for entry in place[:3]) for place in masked]
            return text, ", ".join(told)
        case {"answer": said, "probability": share, "start": start}:
            return said or "(none)", f"{share:.1%}" + (f", letters {start} to {answer['end']}" if start is not None else "")
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
