"""The directory of a run: made, and taken back where the run is refused before its first step. Imports no torch."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from zoo.config import RunConfig
from zoo.errors import ConfigError

BEFORE = frozenset({"config.yaml", "overrides.yaml", "elastic.json", "processor", "init.json", "environment.json"})
"""What a run writes before its first step. A row of the log, a checkpoint or a logger's files are of a run that has begun."""


@dataclass
class RunDir:
    """What this process made for a run; of a run that goes on in its own directory, nothing.

    Args:
        path: of the run.
        made: directories that were not there before, the innermost first.
        copied: files that came from elsewhere (``resume=URL``), with their sizes.
        there: names of what was in the directory before; None of a run that was there itself.
    """

    path: Path
    made: list[Path] = field(default_factory=list)
    copied: dict[str, int] = field(default_factory=dict)
    there: frozenset[str] | None = None

    def copy(self, source: Path) -> None:
        """Take over the files of a run that is kept in a store."""
        shutil.copytree(source, self.path, dirs_exist_ok=True)
        self.copied = {file.name: file.stat().st_size for file in source.iterdir()}

    def forget(self) -> None:
        """Take it back, if nothing is in it but what is written before the first step."""
        if self.there is None or not self.path.is_dir():
            return
        entries = [entry for entry in self.path.iterdir() if entry.name not in self.there]
        if not all(entry.name in BEFORE or self.copied.get(entry.name) == entry.stat().st_size for entry in entries):
            return
        for entry in entries:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for folder in self.made:
            with suppress(OSError):  # another run's directory is in it by now
                folder.rmdir()


def new_run_dir(config: RunConfig, given: Path | None = None) -> RunDir:
    """Make runs/<name>/<time>, or the directory that was asked for; never one that holds a run already.

    Args:
        config: of the run.
        given: where a sweep wants its trial; the config's own otherwise.

    Raises:
        ConfigError: where there is a run.
    """
    if given is not None or config.run.run_dir is not None:
        folder = given or Path(str(config.run.run_dir))
        missing = _missing(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "config.yaml").exists():
            raise ConfigError(
                "run_dir",
                f"{folder} holds a run already",
                f"go on with it: zoo train resume={folder}",
                "another directory",
                "run_dir=null for runs/<name>/<time>",
            )
        return RunDir(folder, missing, there=frozenset(entry.name for entry in folder.iterdir()))
    parent = Path("runs") / config.run.name
    missing = _missing(parent)
    while True:
        folder = parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:  # two runs of one name in one second
            time.sleep(0.2)
        except FileNotFoundError:  # one that was refused has just taken the parent back
            continue
        else:
            return RunDir(folder, [folder, *missing], there=frozenset())


def _missing(folder: Path) -> list[Path]:
    """Of a folder and those that it lies in, the ones that are not there; the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]
