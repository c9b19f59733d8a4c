"""``zoo card``: the model card of a run."""

from collections.abc import Sequence

from zoo.cli.output import DONE, note, say, say_json
from zoo.cli.parser import CommandParser
from zoo.files import home

HELP = """usage: zoo card RUN [RUN ...] [--use TEXT] [--limits TEXT] [--licence SPDX]

Writes the card of the first run's bundle anew (README.md, and its pictures): front matter of the Hugging Face Hub, figures with their protocol and
confidence intervals, data, what the weights started from and its licence, cost, the exact command and commit. More runs of the same config with other
seeds give mean and spread.

  zoo card runs/digits/20260101-120000 --use 'Digits of 8 x 8 pixels.' --licence MIT
  zoo card RUN_OF_SEED_0 RUN_OF_SEED_1 RUN_OF_SEED_2

options
  --use TEXT       what the model is for; without it, what follows from its data
  --limits TEXT    what it is not for, and where it is known to fail
  --licence SPDX   of the weights, as the Hub knows it (apache-2.0, mit, ..., other); where those that they started from have another, card and command say so
  --json --debug   as for every command; keys: card, metrics"""


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("card", "zoo card RUN")
    parser.add_argument("--use")
    parser.add_argument("--limits")
    parser.add_argument("--licence")
    parser.add_argument("runs", nargs="*")
    options = parser.options_of(arguments, HELP, ("runs", "of which run?"))
    if options is None:
        return DONE
    from zoo.hub.card import write_card
    from zoo.hub.lineage import licence_notes, lineage_of

    runs = [home(word) for word in options.runs]
    file = write_card(runs, use=options.use, limits=options.limits, licence=options.licence)
    for told in licence_notes(lineage_of(runs[0]), options.licence):
        note(told)
    if options.json:
        from zoo.hub.bundle import open_bundle

        say_json({"card": str(file), "metrics": open_bundle(file.parent).metrics})
        return DONE
    say(str(file))
    note("publish it: zoo push RUN hf://ORG/NAME")
    return DONE
