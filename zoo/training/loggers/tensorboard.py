"""TensorBoard event files, for those who have its viewer at hand (https://www.tensorflow.org/tensorboard)."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from zoo.registry import LOGGERS
from zoo.training.logging import RunInfo, as_number

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@LOGGERS.register("tensorboard")
class TensorBoardLogger:
    """Writes every number of the log to event files in the run's directory; ``tensorboard --logdir RUN/tensorboard`` shows them.

    Args:
        folder: name of the folder inside the run's directory.
        flush_seconds: seconds between writes to disk.
        run: filled by the builder.
    """

    def __init__(self, *, run: RunInfo, folder: str = "tensorboard", flush_seconds: int = 10) -> None:
        if any(sign in folder for sign in "/\\=") or folder in ("", ".", ".."):
            raise ValueError(f"folder={folder!r} is not the name of a folder inside the run's directory, e.g. folder=tensorboard")
        if find_spec("tensorboard") is None:
            raise ValueError("tensorboard is not installed: pip install 'zoo-ml[tensorboard]'")
        self.folder, self.flush_seconds = run.run_dir / folder, flush_seconds
        self.resumed_at: int | None = None
        self._step = 0
        self._writer: SummaryWriter | None = None

    def start(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what an interrupted process had logged after the checkpoint that the run goes on from.
        purge = None if self.resumed_at is None else self.resumed_at + 1
        self._writer = SummaryWriter(str(self.folder), purge_step=purge, flush_secs=self.flush_seconds)

    def row(self, row: Mapping[str, Any]) -> None:
        assert self._writer is not None
        self._step = row["step"]
        for name, value in row.items():
            if name not in ("step", "time"):
                self._writer.add_scalar(name, as_number(value), row["step"])

    def close(self, outcome: str, summary: Mapping[str, Any]) -> None:  # noqa: ARG002 - the protocol's
        assert self._writer is not None
        self._writer.close()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.resumed_at = int(state["step"])
