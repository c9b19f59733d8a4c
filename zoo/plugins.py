"""Components of the user's own: ``--import my_module`` and ``--import path/to/file.py``.

What is imported is what the user types, never what a config or a bundle names. The list is handed to child processes (the ranks of a
parallel run) through the environment, so that they know the same components.
"""

import importlib
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path

from zoo.errors import ZooError

ENVIRONMENT = "ZOO_IMPORT"


def import_components(names: list[str]) -> None:
    """Import modules or files, and have child processes do the same.

    Raises:
        ZooError: with the import's own error and the line that raised it.
    """
    for name in names:
        _import(name)
    if names:
        before = json.loads(os.environ.get(ENVIRONMENT, "[]"))
        absolute = [str(Path(name).absolute()) if name.endswith(".py") else name for name in names]
        os.environ[ENVIRONMENT] = json.dumps(list(dict.fromkeys([*before, *absolute])))


def import_from_environment() -> None:
    """What the parent process imported; child processes call this first."""
    for name in json.loads(os.environ.get(ENVIRONMENT, "[]")):
        _import(name)


def _import(name: str) -> None:
    try:
        if name.endswith(".py"):
            _import_file(Path(name))
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.append(str(Path.cwd()))  # last, so that a file here never hides an installed module
            importlib.import_module(name)
    except ZooError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ZooError(f"--import {name}: {type(error).__name__}: {error}\n  raised at {frame.filename}:{frame.lineno}") from error


def _import_file(path: Path) -> None:
    path = path.absolute()
    if not path.is_file():
        raise ZooError(f"--import {path}: there is no such file\n  way out: a path from here ({Path.cwd()}), or an absolute one")
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None:
        if Path(getattr(loaded, "__file__", None) or "/").absolute() == path:
            return  # the same file again: harmless
        raise ZooError(f"--import {path}: a module named {name!r} is loaded already, from {getattr(loaded, '__file__', 'inside Python')}; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent))  # for what stands beside it; last, so that nothing installed is hidden
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
