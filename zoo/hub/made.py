"""Files by their checksum -> the folder of a model in the cache, whole or not at all. Imports no torch unless something has to be converted."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import CheckpointError
from zoo.hub.bundle import CONFIG, WEIGHTS
from zoo.hub.cache import remove_folder
from zoo.hub.records import BUNDLE
from zoo.hub.source import SOURCE, write_source

FORMAT = 1
"""Of what this file makes; a higher one makes every model anew."""
Files = dict[str, Path]
"""Path in the model -> file in the cache."""


def read_by_of(files: Files) -> str:
    """``bundle``, or the converter that reads them.

    Raises:
        CheckpointError: where nobody does.
    """
    if CONFIG in files and WEIGHTS in files:
        return BUNDLE
    from zoo.hub.convert import converter_of

    return converter_of(files)


def key_of(sums: Mapping[str, str], read_by: str, options: Mapping[str, object]) -> str:
    """Of everything that a model in the cache is made of."""
    tree = {"format": FORMAT, "files": dict(sorted(sums.items())), "read_by": read_by, "options": dict(options)}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def make(name: str, folder: Path, files: Files, *, source: str, read_by: str, options: Mapping[str, object]) -> Path:
    """Write a model's folder, whole or not at all; if another process was faster, its folder is taken.

    Raises:
        CheckpointError: where the files are no such model.
    """
    with fresh_model(folder, name=name, source=source, files={path: blob.name for path, blob in files.items()}) as fresh:
        if read_by == BUNDLE:
            laid_out(files, fresh)
            check_bundle(fresh)
        else:
            from zoo.hub.convert import convert

            with tempfile.TemporaryDirectory(prefix=".snapshot-", dir=folder.parent) as snapshot:
                laid_out(files, Path(snapshot))
                convert(Path(snapshot), fresh, read_by, options, name=name, source=source)
    return folder


@contextmanager
def fresh_model(folder: Path, *, name: str, source: str, files: Mapping[str, str]) -> Iterator[Path]:
    """An empty folder, which becomes the model's when the block has ended well; if another process was faster, its folder stays.

    Args:
        folder: of the model, in the cache.
        name: that it is asked for by.
        source: where it came from.
        files: path in the model's origin -> checksum of the cache's file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".fresh-", dir=folder.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        write_source(fresh, name=name, source=source, files=dict(files))
        try:
            fresh.rename(folder)
        except OSError:
            if not (folder / SOURCE).is_file():  # what is there has lost its record: nobody takes it for a model
                remove_folder(folder)
                fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def laid_out(files: Files, folder: Path, link: Callable[[Path, Path], None] = os.link) -> None:
    """Files under their names in a folder: links where the disk has them, since their content never changes; else copies."""
    for path, blob in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                link(blob, target)
            except OSError:  # no links on this disk; or another process put the same file there at this moment, and the link met the one that went
                shutil.copyfile(blob, target)
        except FileNotFoundError as error:
            raise CheckpointError(f"{blob}: gone from the cache; does `zoo cache prune` run beside this?\n  way out: the same command again") from error


def check_bundle(folder: Path) -> None:
    """Whether a folder is a bundle.

    Raises:
        CheckpointError: where it is none, or hostile.
    """
    from zoo.hub.bundle import open_bundle

    open_bundle(folder)
