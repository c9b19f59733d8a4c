"""``zoo export``: a bundle from any checkpoint of a run, or a model in another library's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli.output import DONE, note, only_json, say, say_json
from zoo.cli.parser import CommandParser
from zoo.files import home

if TYPE_CHECKING:
    from zoo.hub.export import Exported

HELP = """usage: zoo export RUN|BUNDLE|NAME --to FOLDER [--checkpoint best|last|STEP] [--as FORMAT]

Writes a bundle: config, weights (safetensors), processor, figures and a model card; nothing else is needed to use the model.

  zoo export runs/digits/20260101-120000 --to my_model
  zoo export RUN --to early --checkpoint 200
  zoo export s3://bucket/runs/x --to my_model         what its trainer.checkpoint_to holds
  zoo export digits_cnn --to my_model                 a checked copy of a pretrained model, or of any other bundle
  zoo export RUN --to theirs --as bert                what transformers loads; `zoo list converter` names the formats

options
  --to FOLDER          where the bundle will be; an older bundle there is replaced
  --checkpoint WHICH   of a run: best (by the run's own measure; the default), last, or a step's number
  --as FORMAT          another library's layout in place of a bundle, with the tokenizer or preprocessor
  --json --import X --debug as for every command; keys: run, bundle, step (null of a bundle), metrics, parameters; with --as: model, folder, format"""


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("export", "zoo export RUN --to FOLDER")
    parser.add_argument("--to")
    parser.add_argument("--checkpoint")
    parser.add_argument("--as", dest="layout")
    parser.add_argument("run", nargs="?")
    options = parser.options_of(arguments, HELP, ("run", "which run?"), ("to", "where to? --to FOLDER is needed"))
    if options is None:
        return DONE
    to = home(options.to)
    if options.layout is not None:
        return _foreign(options.run, to, options.layout, options.checkpoint, as_json=options.json)
    with only_json(options.json):
        run, exported = _exported(options.run, to, options.checkpoint)
    if options.json:
        say_json({"run": run, "bundle": str(exported.folder), "step": exported.step, "metrics": exported.metrics, "parameters": exported.parameters})
        return DONE
    say(str(exported.folder))
    origin = "copied" if exported.step is None else f"written from step {exported.step}"
    note(f"{origin}, {exported.parameters:,} parameters; use it: zoo predict {exported.folder} ...")
    return DONE


def _exported(model: str, to: Path, checkpoint: str | None) -> "tuple[str, Exported]":
    """A bundle of a run's checkpoint, or a copy of what is a bundle already; with the model as it is called in answers."""
    from zoo.hub.export import export_bundle, export_run, refuse_checkpoint
    from zoo.hub.resolve import STORES
    from zoo.training.store import Store, is_url, run_files

    stored = is_url(model) and model.partition("://")[0] in STORES
    place = model if is_url(model) else str(home(model))
    if stored or (not is_url(model) and Path(place).is_dir() and not (Path(place) / "model.safetensors").is_file()):
        with run_files(place) as run_dir:
            return place, export_run(run_dir, to, checkpoint=checkpoint or "best", store=Store(place) if stored else None)
    refuse_checkpoint(model, checkpoint)
    return model, export_bundle(model, to)


def _foreign(model: str, to: Path, layout: str, checkpoint: str | None, *, as_json: bool) -> int:
    """In another library's layout: of a bundle, or of a run's checkpoint, by way of a bundle that is not kept."""
    from zoo.hub.export import export_foreign

    with only_json(as_json):
        export_foreign(model, to, layout, checkpoint)
    if as_json:
        say_json({"model": model, "folder": str(to), "format": layout})
        return DONE
    say(str(to))
    note(f"in the layout of {layout}, which zoo reads as well; use it: zoo predict {to} ...")
    return DONE
