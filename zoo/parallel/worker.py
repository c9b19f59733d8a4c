"""One rank of a parallel run: ``python -m zoo.parallel.worker RUN_DIR``, with the launcher's environment."""

import os
import signal
import sys
import traceback
from pathlib import Path

from zoo.config import RunConfig
from zoo.errors import ZooError
from zoo.parallel.elastic import follow_launcher
from zoo.plugins import import_from_environment

FAILED, REFUSED = 1, 2
"""Exit codes of a rank that has said why: by an exception, or by an error of the user's."""


def main(run_dir: Path) -> int:
    rank = os.environ.get("RANK", "0")
    # A signal before the trainer listens ends the run as early as it came; afterwards the trainer's handler is in force.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    follow_launcher()
    try:
        import_from_environment()
        from zoo.training.job import run_job

        run_job(RunConfig.load(run_dir / "config.yaml"), run_dir)
    except ZooError as error:
        _tell(f"rank {rank}: error: {error}", error)
        return REFUSED
    except Exception as error:  # noqa: BLE001 - the last place where this rank can say what happened
        _tell(f"rank {rank}:\n{traceback.format_exc()}".rstrip(), None)
        del error
        return FAILED
    return 0


def _tell(message: str, error: ZooError | None) -> None:
    notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ())) if error else ""
    sys.stderr.write(f"{message}{notes}\n")  # one write: lines of several ranks do not mix
    sys.stderr.flush()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stderr.flush()
    # Not sys.exit after a failure: threads of a broken collective must not hold the process.
    if code:
        os._exit(code)
    sys.exit(0)
