"""``zoo export``: a bundle from any checkpoint of a run, or a model in another library's layout."""

from collections.abc import Sequence
from pathlib import Path

from zoo.cli.output import DONE, note, only_json, say, say_json
from zoo.cli.parser import CommandParser
from zoo.errors import ZooError

HELP = """usage: zoo export RUN|BUNDLE|NAME --to FOLDER [--checkpoint best|last|STEP] [--as FORMAT]

Writes a bundle: config, weights (safetensors), processor, figures and a model card; nothing else is needed to use the model.

  zoo export runs/digits/20260101-120000 --to my_model
  zoo export RUN --to early --checkpoint 200
  zoo export s3://bucket/runs/x --to my_model         what its trainer.checkpoint_to holds
  zoo export RUN --to theirs --as bert                what transformers loads; `zoo list converter` names the formats

options
  --to FOLDER          where the bundle will be; an older bundle there is replaced
  --checkpoint WHICH   best (by the run's own measure), last, or a step's number
  --as FORMAT          another library's layout in place of a bundle, with the tokenizer or preprocessor
  --json --import X --debug as for every command; keys: run, bundle, step, metrics, parameters; with --as: model, folder, format"""


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("export", "zoo export RUN --to FOLDER")
    parser.add_argument("--to")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--as", dest="layout")
    parser.add_argument("run", nargs="?")
    options = parser.parse_intermixed_args(list(arguments))
    if options.help:
        say(HELP)
        return DONE
    if options.run is None:
        parser.error("which run?")
    if options.to is None:
        parser.error("where to? --to FOLDER is needed")
    from zoo.training.store import Store, is_url, run_files

    if options.layout is not None:
        return _foreign(options.run, Path(options.to).expanduser(), options.layout, options.checkpoint, as_json=options.json)
    run = options.run if is_url(options.run) else str(Path(options.run).expanduser())
    if not is_url(run) and not Path(run).is_dir():
        raise ZooError(f"{run}: there is no such run")
    with only_json(options.json), run_files(run) as run_dir:
        from zoo.hub.export import export_run

        store = Store(run) if is_url(run) else None
        exported = export_run(run_dir, Path(options.to).expanduser(), checkpoint=options.checkpoint, store=store)
    if options.json:
        say_json({"run": run, "bundle": str(exported.folder), "step": exported.step, "metrics": exported.metrics, "parameters": exported.parameters})
        return DONE
    say(str(exported.folder))
    note(f"written from step {exported.step}, {exported.parameters:,} parameters; use it: zoo predict {exported.folder} ...")
    return DONE


def _foreign(model: str, to: Path, layout: str, checkpoint: str, *, as_json: bool) -> int:
    """In another library's layout: of a bundle, or of a run's checkpoint, by way of a bundle that is not kept."""
    from zoo.hub.export import export_foreign

    with only_json(as_json):
        export_foreign(model, to, layout, checkpoint)
    if as_json:
        say_json({"model": model, "folder": str(to), "format": layout})
        return DONE
    say(str(to))
    note(f"in the layout of {layout}; back again: zoo pull, or zoo predict, of wherever it is published")
    return DONE
