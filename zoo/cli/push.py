"""``zoo push``: publish a model."""

from collections.abc import Sequence
from pathlib import Path

from zoo.cli.output import DONE, note, only_json, say, say_json
from zoo.cli.parser import CommandParser
from zoo.files import home

HELP = """usage: zoo push RUN|BUNDLE hf://ORG/NAME [--private] [--message TEXT]

Uploads a bundle with its card to the Hugging Face Hub, in one commit; others get it by the address that is printed.
Only the model's own files go out: hidden files, pickles and whatever else lies in the folder are left out, and named.

  zoo push runs/digits/20260101-120000 hf://me/digits
  zoo export RUN --as bert --to theirs && zoo push theirs hf://me/for-transformers
  zoo push RUN hf://me/digits@better                  to a branch, which is made if it is not there

options
  --private        a new repository is seen by its owners only
  --message TEXT   of the commit
  --json --import X --debug as for every command; keys: address, url, files, left_out,
  rewritten (folders of this machine that the files do not name any more)

HF_TOKEN or `hf auth login` says who you are; HF_ENDPOINT names a mirror."""

SHOWN = 8
"""Files left out that are named one by one."""


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("push", "zoo push RUN hf://ORG/NAME")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--message")
    parser.add_argument("model", nargs="?")
    parser.add_argument("to", nargs="?")
    options = parser.options_of(arguments, HELP, ("model", "which model, and where to?"), ("to", "which model, and where to?"))
    if options is None:
        return DONE
    from zoo.hub.push import destination, push

    with only_json(options.json):
        destination(options.to)  # before a model is fetched that could not be sent anyway
        pushed = push(as_it_is(options.model), options.to, private=options.private, message=options.message)
    if options.json:
        say_json({"address": pushed.address, "url": pushed.url, "files": pushed.files, "left_out": pushed.left_out, "rewritten": pushed.portable})
        return DONE
    say(pushed.address)
    if pushed.left_out:
        more = f" and {len(pushed.left_out) - SHOWN} more" if len(pushed.left_out) > SHOWN else ""
        note(f"left out, as no part of the model: {', '.join(pushed.left_out[:SHOWN])}{more}")
    for key, change in pushed.portable.items():
        note(f"{key}: {change}, so that no folder of this machine is named")
    note(f"{pushed.files} files at {pushed.url}; use it: zoo predict {pushed.address} ...")
    return DONE


def as_it_is(model: str) -> Path:
    """A folder is pushed in the layout that it has; a name or an address is looked up."""
    from zoo.hub.resolve import exists, resolve

    here = home(model)
    return here if exists(here) else resolve(model)
