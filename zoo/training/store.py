"""A run's checkpoints at a URL: S3, GCS, Azure, SFTP, FTP and whatever else fsspec can write to. Imports no torch.

    s3://bucket/runs/x/step_00000120/   model.safetensors  optimizer.safetensors  state.json  run/config.yaml  run/log.jsonl  run/processor/...  complete.json

A store has no rename: what makes the files a checkpoint is ``complete.json``, which is written last and removed first. Beside the tensors lies
what the run needs besides, so that it goes on where its own directory is gone: ``zoo train resume=s3://bucket/runs/x``.
Addresses and credentials of a store are not of the run: each protocol finds them where it always does, or in fsspec's own configuration
(``FSSPEC_S3_ENDPOINT_URL``, ``~/.config/fsspec/``).
"""

import hashlib
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.config import read_yaml
from zoo.errors import CheckpointError, ConfigError, ZooError, near
from zoo.settings import check_address
from zoo.training.marker import MARKER, RUN, STEP, read_marker, step_name, wanted

OPTION = "trainer.checkpoint_to"
SUPPORTED = "s3://, gs://, az://, sftp://, ftp://, file://"
ATTACHED = ("config.yaml", "overrides.yaml", "init.json", "log.jsonl")
"""Files of a run's directory that go with its checkpoints, besides the folder processor/."""


class StoreError(ZooError):
    """A store that does not answer, or refuses. Nothing is known of its checkpoints then: none of them counts as damaged."""


def is_url(place: str) -> bool:
    return "://" in place


def check_protocol(url: str, path: str = OPTION) -> None:
    """Whether the package that speaks the URL's protocol is here. Connects to nothing.

    Raises:
        ConfigError: with what to install.
    """
    from fsspec.registry import available_protocols, get_filesystem_class

    protocol = url.partition("://")[0]
    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        raise ConfigError(
            path, f"{url}: a package is missing for {protocol}:// ({error})", "pip install it beside zoo: s3fs, gcsfs, adlfs, paramiko ..."
        ) from None
    except ValueError:
        known = near(protocol, available_protocols())
        way = f"did you mean {' or '.join(f'{name}://' for name in known)}?" if known else f"{SUPPORTED}, or what else fsspec can write to"
        raise ConfigError(path, f"{url}: {protocol}:// is not known", way) from None


class Store:
    """What lies under one URL.

    Args:
        url: of one run's checkpoints.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def connect(self) -> tuple[Any, str]:
        """A connection, and the path in it. A new one each time: one that was idle for an epoch may be dead, and most are of one thread only."""
        from fsspec.core import url_to_fs

        check_protocol(self.url)
        system, root = url_to_fs(self.url, skip_instance_cache=True)  # no other option: some protocols hand what they do not know to their client
        return system, root.rstrip("/")

    @contextmanager
    def connected(self, what: str) -> Iterator[tuple[Any, str]]:
        """A connection whose errors, which each protocol has of its own, are told as zoo's.

        Args:
            what: cannot be done where it fails, e.g. "read".
        """
        try:
            yield self.connect()
        except ZooError:
            raise
        except Exception as error:
            raise StoreError(f"{self.url}: cannot be {what} ({told(error)})") from error

    # --- what there is ----------------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Of the checkpoints with a marker, oldest first."""
        with self.connected("listed") as (system, root):
            return [step for step in sorted(_folders(system, root)) if has(system, f"{root}/{step_name(step)}/{MARKER}")]

    def check_new(self) -> None:
        """Whether a new run can put its checkpoints here; writes and removes a small file, so that it is known before the first step.

        Raises:
            ConfigError: where those of another run are here.
            StoreError: where it cannot be written to.
        """
        if steps := self.steps():
            raise ConfigError(
                OPTION,
                f"{self.url} holds checkpoints of another run already (up to step {steps[-1]})",
                f"go on with that run: zoo train resume={self.url}",
                "another URL; one for each trial of a sweep: '.../${hydra:job.num}'",
            )
        with self.connected("written to") as (system, root):
            top = root.partition("/")[0]
            if top and not system.exists(top):  # a bucket is not made by a slip of the pen
                raise StoreError(f"{self.url}: there is no {top!r}\n  way out: make it first, or another {OPTION}")
            system.makedirs(root, exist_ok=True)
            probe = f"{root}/probe-{secrets.token_hex(4)}"
            system.pipe_file(probe, b"zoo")
            system.rm_file(probe)

    def clean(self) -> None:
        """Remove what a killed process left without a marker. Only before a run starts, by its first process."""
        with self.connected("cleaned up") as (system, root):
            for step in _folders(system, root):
                if not has(system, f"{root}/{step_name(step)}/{MARKER}"):
                    system.rm(f"{root}/{step_name(step)}", recursive=True)

    def remove(self, step: int) -> None:
        """The marker first, so that one that is half gone is no checkpoint."""
        system, root = self.connect()
        folder = f"{root}/{step_name(step)}"
        if has(system, f"{folder}/{MARKER}"):
            system.rm_file(f"{folder}/{MARKER}")
        system.invalidate_cache()
        system.rm(folder, recursive=True)

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def fetch(self, step: int, into: Path, parts: Collection[str] | None = None) -> None:
        """Download a checkpoint and compare every byte with its marker.

        Args:
            step: of the checkpoint.
            into: an empty folder.
            parts: as for ``wanted``.

        Raises:
            CheckpointError: with the file that is missing, cut short or changed.
            StoreError: where the store does not answer.
        """
        where = f"{self.url}/{step_name(step)}"
        with self.connected("read") as (system, root):
            folder = f"{root}/{step_name(step)}"
            if not has(system, f"{folder}/{MARKER}"):
                raise CheckpointError(f"{where}: not complete (it has no {MARKER})")
            marker = system.cat_file(f"{folder}/{MARKER}")
            _, files = read_marker(marker, where)
            for name, (size, sha256) in files.items():
                if not wanted(name, parts):
                    continue
                target = into / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not has(system, f"{folder}/{name}"):
                    raise CheckpointError(f"{where}/{name}: missing")
                system.get_file(f"{folder}/{name}", str(target))
                if target.stat().st_size != size:
                    raise CheckpointError(f"{where}/{name}: {target.stat().st_size} bytes, {size} were written")
                with target.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        raise CheckpointError(f"{where}/{name}: its contents have changed since it was written")
            (into / MARKER).write_bytes(marker)


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def has(system: Any, path: str) -> bool:
    """Whether a file is there now, whatever was listed before. A dead line is an error; fsspec's own ``exists`` takes it for a file that is missing."""
    system.invalidate_cache()
    try:
        system.info(path)
    except FileNotFoundError:
        return False
    return True


def _folders(system: Any, root: str) -> list[int]:
    """Steps with a folder, whatever is in it."""
    system.invalidate_cache()
    try:
        names = [str(entry).rstrip("/").rpartition("/")[2] for entry in system.ls(root, detail=False)]
    except FileNotFoundError:
        return []
    return [int(match[1]) for name in names if (match := STEP.fullmatch(name))]


# --- of a run -----------------------------------------------------------------------------------------------------------------------


def store_of(run_dir: Path) -> Store | None:
    """Where a run's checkpoints are, if not in its own directory."""
    file = run_dir / "config.yaml"
    tree = read_yaml(file) if file.is_file() else {}
    trainer = tree.get("trainer") if isinstance(tree, Mapping) else None
    url = trainer.get("checkpoint_to") if isinstance(trainer, Mapping) else None
    return Store(url) if isinstance(url, str) else None


def attached(run_dir: Path) -> dict[str, Path]:
    """What goes with each checkpoint: name in it -> file."""
    files = [*(run_dir / name for name in ATTACHED), *sorted((run_dir / "processor").rglob("*"))]
    return {f"{RUN}/{file.relative_to(run_dir).as_posix()}": file for file in files if file.is_file()}


@contextmanager
def run_files(place: str) -> Iterator[Path]:
    """A run's directory as far as its newest complete checkpoint has it, for as long as it is looked at; where the place is a path, that path.

    Raises:
        CheckpointError: where there is no complete checkpoint.
    """
    if not is_url(place):
        yield Path(place)
        return
    check_address("resume", place)
    store, problems = Store(place), []
    for step in reversed(store.steps()):
        with tempfile.TemporaryDirectory() as folder:
            try:
                store.fetch(step, Path(folder), {RUN})
            except CheckpointError as error:
                problems.append(f"\n  step {step} is damaged and not used: {error}")
                continue
            yield Path(folder) / RUN
            return
    raise CheckpointError(f"{place}: holds no complete checkpoint of a run{''.join(problems)}\n  way out: the address that was its trainer.checkpoint_to")
