"""``zoo export``: a bundle from any checkpoint of a run."""

from collections.abc import Sequence
from pathlib import Path

from zoo.cli.output import DONE, note, only_json, say, say_json
from zoo.cli.parser import CommandParser
from zoo.errors import ZooError

HELP = """usage: zoo export RUN --to FOLDER [--checkpoint best|last|STEP]

Writes a bundle: config, weights (safetensors), processor, figures and a model card; nothing else is needed to use the model.

  zoo export runs/digits/20260101-120000 --to my_model
  zoo export RUN --to early --checkpoint 200

options
  --to FOLDER          where the bundle will be; an older bundle there is replaced
  --checkpoint WHICH   best (by the run's own measure), last, or a step's number
  --json --import X --debug as for every command; keys: run, bundle, step, metrics, parameters"""


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("export", "zoo export RUN --to FOLDER")
    parser.add_argument("--to")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("run", nargs="?")
    options = parser.parse_intermixed_args(list(arguments))
    if options.help:
        say(HELP)
        return DONE
    if options.run is None:
        parser.error("which run?")
    if options.to is None:
        parser.error("where to? --to FOLDER is needed")
    run_dir = Path(options.run).expanduser()
    if not run_dir.is_dir():
        raise ZooError(f"{run_dir}: there is no such run")
    with only_json(options.json):
        from zoo.hub.export import export_run

        exported = export_run(run_dir, Path(options.to).expanduser(), checkpoint=options.checkpoint)
    if options.json:
        say_json({"run": str(run_dir), "bundle": str(exported.folder), "step": exported.step, "metrics": exported.metrics, "parameters": exported.parameters})
        return DONE
    say(str(exported.folder))
    note(f"written from step {exported.step}, {exported.parameters:,} parameters; use it: zoo predict {exported.folder} ...")
    return DONE
