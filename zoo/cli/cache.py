"""``zoo cache``: what was downloaded. Imports no torch."""

from collections.abc import Sequence
from typing import Any

from zoo.cli.output import DONE, USERS, note, say, say_json, table
from zoo.cli.parser import CommandParser
from zoo.errors import did_you_mean
from zoo.files import home

HELP = """usage: zoo cache [list | verify | prune [NAME ...]]

  zoo cache                   models that are here, with their size and where they came from
  zoo cache verify            read every byte again; what is damaged is removed, so that it is fetched anew
  zoo cache prune             remove files that no model here is made of, and what broken-off downloads left;
                              those of the last 10 minutes are spared: a model may be about to be made of them
  zoo cache prune NAME ...    and these models, at once; what came from a folder goes by its path

options
  --json --debug as for every command; keys: folder, models (name, folder, size, source); right, wrong; files, size, spared

ZOO_CACHE is the folder (~/.cache/zoo). It can be copied to a machine without a network."""
ACTIONS = ("list", "verify", "prune")


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("cache", "zoo cache list")
    parser.add_argument("action", nargs="?", default="list")
    parser.add_argument("names", nargs="*")
    options = parser.parse_intermixed_args(list(arguments))
    if options.help:
        say(HELP)
        return DONE
    if options.action not in ACTIONS:
        parser.error(f"{options.action!r}: {did_you_mean(options.action, ACTIONS)}")
    if options.names and options.action != "prune":
        parser.error(f"zoo cache {options.action} takes no names")
    from zoo.hub.cache import Cache

    cache = Cache()
    match options.action:
        case "verify":
            return _verify(cache, options.json)
        case "prune":
            return _prune(cache, options.names, options.json)
    return _list(cache, options.json)


def _list(cache: Any, as_json: bool) -> int:
    from zoo.hub.meter import size_of

    entries = cache.entries()
    if as_json:
        models = [{"name": entry.name, "folder": str(entry.folder), "size": entry.size, "source": entry.source} for entry in entries]
        say_json({"folder": str(cache.root), "models": models})
        return DONE
    for folder, reason in cache.damaged():
        note(f"{folder.name}: {reason}\n  way out: zoo cache verify removes it")
    if not entries:
        say(f"{cache.root}: nothing is here yet; `zoo list pretrained`, `zoo pull NAME`")
        return DONE
    say(table([[entry.name, size_of(entry.size), entry.source] for entry in entries], ["model", "size", "from"]))
    note(f"\nin {cache.root}")
    return DONE


def _verify(cache: Any, as_json: bool) -> int:
    right, wrong = cache.verify()
    if as_json:
        say_json({"right": len(right), "wrong": wrong})
    else:
        say("\n".join([*wrong, f"{len(right)} right, {len(wrong)} wrong"]))
    return USERS if wrong else DONE


def _prune(cache: Any, names: list[str], as_json: bool) -> int:
    from zoo.errors import ZooError
    from zoo.hub.cache import RECENT
    from zoo.hub.meter import size_of

    known = {entry.name for entry in cache.entries()}
    names = [name if name in known else _by_path(name, known) for name in names]
    if unknown := [name for name in names if name not in known]:
        raise ZooError(f"{unknown[0]!r} is not in the cache; {did_you_mean(unknown[0], known)}\n  way out: `zoo cache` names the models that are")
    pruned = cache.prune(names)
    if as_json:
        say_json(pruned._asdict())
        return DONE
    say(f"{pruned.files} removed, {size_of(pruned.size)}")
    if pruned.spared:
        note(f"{pruned.spared} more, of no model yet, came within the last {RECENT / 60:g} minutes, and were spared: one may be about to be made of them")
    return DONE


def _by_path(name: str, known: set[str]) -> str:
    """The name of what a folder's checkpoint became, which is its whole path; else the word as it is."""
    try:
        whole = str(home(name).resolve())
    except (OSError, ValueError, RuntimeError):
        return name
    return whole if whole in known else name
