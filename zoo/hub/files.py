"""Files of a bundle: plain data only, inside its folder only. Imports no torch."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import CheckpointError

PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})
MAX_TEXT = 64 * 2**20
MAX_NUMBER = 2**53
MAX_SIZE = 2**27
"""Of a model's own options (widths, depths): a depth of 2**53 would keep a constructor busy for ever."""


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain values; no tag, no alias (a few lines of them expand to terabytes)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()
            raise yaml.YAMLError(f"alias at line {event.start_mark.line + 1}: a bundle's config holds plain values only")
        return super().compose_node(parent, index)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML calls it so
        return True


def read_text(path: Path) -> str:
    """A small text file.

    Raises:
        CheckpointError: where it is missing, too large, or no UTF-8.
    """
    try:
        if path.stat().st_size > MAX_TEXT:
            raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes is more than a description ever needs ({MAX_TEXT:,})")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; the bundle is incomplete\n  way out: write it again: zoo export RUN --to DIR") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def read_plain_yaml(path: Path) -> dict[str, Any]:
    """A mapping of names to plain values.

    Raises:
        CheckpointError: for Python tags, aliases, keys that ask to run code, and whatever is no plain value.
    """
    try:
        tree = yaml.load(read_text(path), Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not plain YAML, refused: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: a mapping of names to values is needed, this is {type(tree).__name__}")
    _check_plain(tree, "", path)
    return tree


def read_plain_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: a mapping of names to values is needed, this is {type(tree).__name__}")
    return tree


def to_yaml(tree: Any) -> str:
    text: str = yaml.dump(tree, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def check_folder(folder: Path, required: tuple[str, ...]) -> None:
    """All required files are there, nothing leads out of the folder, nothing in it is a pickle.

    Raises:
        CheckpointError: naming the first such file.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: {'is no folder' if folder.exists() else 'there is no such folder'}; a bundle is a folder with {', '.join(required)}")
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink() and not _end_of(path).is_relative_to(root):
                raise CheckpointError(f"{path}: links to {_end_of(path)}, outside the bundle; refused")
            if name in names and not path.is_file():
                raise CheckpointError(f"{path}: is no ordinary file; refused")
            if path.suffix.lower() in PICKLES:
                raise CheckpointError(
                    f"{path}: a bundle holds no pickles and no archives of arrays ({path.suffix}), since opening one can run code; refused\n"
                    "  way out: its weights as model.safetensors"
                )
    absent = [name for name in required if not (folder / name).is_file()]
    if absent and (folder / "overrides.yaml").is_file():
        ways = f"go on with it: zoo train resume={folder}\n  way out 2: a bundle of its newest checkpoint: zoo export {folder} --to DIR"
        raise CheckpointError(f"{folder}: a run that has not come to its end, so that it has no bundle yet\n  way out 1: {ways}")
    if absent:
        raise CheckpointError(f"{folder}: no complete bundle, it lacks {', '.join(absent)}\n  way out: write it again: zoo export RUN --to DIR")


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all, in place of an older one of the same name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
        _sync(fresh)
        old = fresh.with_name(fresh.name + "-old")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _end_of(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError) as error:  # a loop
        raise CheckpointError(f"{link}: a link that leads nowhere; refused") from error


def _check_plain(value: Any, path: str, origin: Path, largest: int = MAX_NUMBER) -> None:
    match value:
        case dict():
            for key, entry in value.items():
                where = f"{path}.{key}" if path else str(key)
                if not isinstance(key, str):
                    raise CheckpointError(f"{origin}: {where}: the key {key!r} is no string")
                if key.startswith("_") and key.endswith("_"):
                    raise CheckpointError(
                        f"{origin}: {where}: {key} asks to run code, which no bundle can; refused\n  way out: a component is chosen by its registered `name`"
                    )
                _check_plain(entry, where, origin, MAX_SIZE if where == "model" else largest)
        case list():
            for place, entry in enumerate(value):
                _check_plain(entry, f"{path}[{place}]", origin, largest)
        case int() if abs(value) > largest:
            raise CheckpointError(f"{origin}: {path}: {value:.3g} is larger than anything that a config counts; refused")
        case str() | int() | float() | None:
            pass
        case _:
            raise CheckpointError(f"{origin}: {path}: {value!r} is a {type(value).__name__}, no plain value; quote it if text is meant")
