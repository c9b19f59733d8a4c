"""``zoo chat``: a conversation with a model that was trained on conversations."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli.output import DONE, note, only_json, say, say_json
from zoo.cli.parser import CommandParser
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.inference.sampling import Sampling

HELP = """usage: zoo chat BUNDLE [options]

A conversation with a model that was trained on conversations (data.target_kind=dialogue). You type a line, it answers as it writes.

  zoo chat runs/chitchat/TIME
  echo "Hi, how are you?" | zoo chat runs/chitchat/TIME --json       each line of standard input is a turn

while it runs
  /new             forget the conversation and begin another
  /again           the last answer anew, by the next seed (with --temperature)
  /save FILE       the conversation so far, as JSON
  /quit            or the end of the input

options
  --system TEXT    what the model is told before the first turn
  --tokens N       of an answer (128)
  --temperature T  draws each token (0.8; 0: the likeliest each time), by --seed S (0), of the likeliest --top-k K, of those that make up
                   --top-p P of the distribution (0.95), of those at least --min-p P times as likely as the likeliest
  --repetition-penalty R   makes what is there already less likely (1: not)
  --stop TEXT      ends an answer (again for more)
  --device D       auto, cpu, cuda ...
  --json --import X --debug as for every command: the conversation as a list of {"role", "content"}"""

TOKENS, TEMPERATURE, TOP_P = 128, 0.8, 0.95


def run(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options is None:
        return DONE
    from zoo.hub.resolve import resolve

    folder = resolve(options.bundle)
    with only_json(options.json):
        messages = converse(folder, options)
    if options.json:
        say_json(messages)
    return DONE


def parse(arguments: Sequence[str]) -> argparse.Namespace | None:
    from zoo.cli.predict import number, whole

    parser = CommandParser("chat", "zoo chat BUNDLE")
    parser.add_argument("--system")
    parser.add_argument("--tokens", type=whole(1), default=TOKENS)
    parser.add_argument("--temperature", type=number, default=TEMPERATURE)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--top-k", type=whole(1))
    parser.add_argument("--top-p", type=number)
    parser.add_argument("--min-p", type=number)
    parser.add_argument("--repetition-penalty", type=number)
    parser.add_argument("--stop", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("bundle", nargs="?")
    return parser.options_of(arguments, HELP, ("bundle", "which model?"))


def sampling_of(options: argparse.Namespace, seed: int) -> "Sampling":
    from zoo.inference.sampling import Sampling

    given = {name: getattr(options, name) for name in ("top_k", "top_p", "min_p", "repetition_penalty")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.temperature and not {"top_k", "top_p", "min_p"} & set(given):
        given["top_p"] = TOP_P
    drawn = {"temperature": options.temperature, "seed": seed} if options.temperature else {}
    return Sampling(max_tokens=options.tokens, stop=tuple(options.stop), **drawn, **given)


def converse(folder: Path, options: argparse.Namespace) -> list[dict[str, str]]:
    """Read turns and answer them until the input ends; the conversation."""
    from zoo.cli.predict import checked_device
    from zoo.inference.predictor import Predictor

    sampling_of(options, options.seed)  # what does not fit each other is told before the model is loaded
    model = Predictor.load(folder, device=checked_device(options.device))
    beginning = [{"role": "system", "content": options.system}] if options.system else []
    messages, seed, asks = list(beginning), options.seed, sys.stdin.isatty() and not options.json
    if asks:
        note("/new begins another conversation, /again answers anew, /quit ends it; zoo chat --help has the rest")
    while True:
        line = read(asks)
        if line is None or line == "/quit":
            return messages
        if line == "/new":
            messages = list(beginning)
            continue
        if line.startswith("/save "):
            save(Path(line.removeprefix("/save ").strip()), messages)
            continue
        if line == "/again":
            if not messages or messages[-1]["role"] != "assistant":
                note("there is no answer yet")
                continue
            messages.pop()
        elif line.startswith("/"):
            note(f"{line.split()[0]} is no command; /new, /again, /save FILE, /quit")
            continue
        else:
            messages.append({"role": "user", "content": line})
        try:
            said = answer(model.chat(messages, sampling_of(options, seed)), silent=options.json)
        except ZooError as error:  # of one turn: the conversation goes on without it
            if messages == [*beginning, messages[-1]] and not asks:
                raise
            note(f"error: {error}")
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": said})
        seed += 1


def read(asks: bool) -> str | None:
    """The next line that holds something; None at the end of the input."""
    while True:
        if asks:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return None
        if line.strip():
            return line.strip()


def answer(pieces: object, *, silent: bool) -> str:
    """The whole of a turn, shown as it comes."""
    said = ""
    for piece in pieces:  # type: ignore[attr-defined]
        said += piece
        if not silent:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if not silent:
        say("")
    return said.strip() or "..."


def save(path: Path, messages: list[dict[str, str]]) -> None:
    try:
        path.write_text(json.dumps(messages, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        note(f"error: {path} cannot be written: {error}")
        return
    note(f"{len(messages)} turns are in {path}")
