"""R12: what becomes of a job one of whose ranks fails: exit code, seconds until every process is gone, and what the message names.

    python tools/failure_table.py [--faults raise,exit,killed,hang,worker,empty] [--layouts ddp,fsdp] [--processes 2,4] [--timeout 5]

Real launches of ``zoo train parallel.processes=N`` on the digits, one after the other, each 10 to 20 s on an idle machine: choose some of them for parts.
Rank 1 raises, calls os._exit(7), is killed by SIGKILL or hangs in its fourth step; ``worker``: its loader process hangs; ``empty``: every second
batch has a single sample, so that only rank 0 has any, which has to make no difference to the losses (a batch that can never be split is refused
at the start). A job has to end with another code than 0 within 15 s of the fault, or of ``parallel.timeout`` where something hangs, no process of
it may stay behind, and its message has to name the rank.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.figures import ROOT, markdown, use_this_tree, verdict

use_this_tree()
BOUND = 15.0
ALL_BUT_ONE = 1257
"""Of the digits to train on: the last batch of each epoch has a single sample."""
IN_STEP = ("raise", "exit", "killed", "hang")
FAULTS = {how: [f"model.encoder.how={how}"] for how in IN_STEP} | {
    "worker": ["+data.augment.bad={name: unreliable, how: hang}", "data.workers=1"],
    "empty": [f"data.batch_size={ALL_BUT_ONE}"],
}
LAYOUTS = {"ddp": ["parallel.strategy=ddp"], "fsdp": ["parallel.strategy=fsdp"]}
NAMED = {"rank": r"rank 1\b", "step": r"rank 1 [^\n]*step \d+", "samples": r"rank 1 [^\n]*samples \d+", "stack": r"time\.sleep\(1000\)|_get_data|had enough"}


@dataclass
class Job:
    """A launched ``zoo train``."""

    folder: Path
    code: int = 0
    seconds: float = 0.0
    left_behind: int = 0
    errors: str = ""
    losses: list[float] = field(default_factory=list)


def members(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # gone meanwhile
        if int(own) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def launch(folder: Path, overrides: list[str], limit: float) -> Job:
    """Run it to its end."""
    folder.mkdir()
    command = [sys.executable, "-m", "zoo", "train", "--import", str(ROOT / "tests" / "unreliable.py"), "model/encoder=unreliable", "logger=none"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(
            [*command, "run_dir=run", "trainer.max_steps=12", "trainer.log_every=1", *overrides],
            cwd=folder, env=environment, stdout=errors, stderr=errors, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + limit
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        code = process.poll()
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
    struck = folder / "failed_at"
    job = Job(folder, -1 if code is None else code, time.time() - float(struck.read_text()) if struck.exists() else 0.0, len(members(process.pid)))
    for number in members(process.pid):
        os.kill(number, 9)
    process.wait()
    job.errors = (folder / "stderr.txt").read_text()
    log = folder / "run" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    job.losses = [row["train/loss"] for row in rows if "train/loss" in row]
    return job


def judge(fault: str, job: Job, timeout: float, wanted: list[float]) -> list[str]:
    """What is not as it has to be."""
    if fault == "empty":
        train = re.search(r"([\d,]+) train", job.errors)
        if train is None or int(train[1].replace(",", "")) != ALL_BUT_ONE + 1:
            return ["the digits are other ones: ALL_BUT_ONE has to change"]
        if job.code or len(job.losses) != len(wanted):
            return [f"exit code {job.code}, {len(job.losses)} rows"]
        far = max(abs(one - other) for one, other in zip(job.losses, wanted, strict=True))
        return [f"its losses differ by {far:.1e} from those of one process"] if far > 1e-5 else []
    allowed = BOUND + (timeout if fault in ("hang", "worker") else 0.0)
    found = ["the fault did not happen"] if not (job.folder / "failed_at").exists() else []
    found += [f"exit code {job.code}"] if job.code in (0, -1) else []
    found += [f"{job.seconds:.1f} s after the fault, {allowed:.0f} are allowed"] if job.seconds > allowed else []
    found += [f"{job.left_behind} processes stay behind"] if job.left_behind else []
    found += ["the message does not name rank 1"] if not re.search(NAMED["rank"], job.errors) else []
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--processes", default="2,4")
    parser.add_argument("--timeout", type=int, default=5, help="parallel.timeout where something hangs; more on a busy machine, where a step is slow")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which a job is given up")
    options = parser.parse_args()
    faults, layouts, worlds = options.faults.split(","), options.layouts.split(","), [int(world) for world in options.processes.split(",")]
    rows, problems, wanted = [], [], list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "empty" in faults:
            wanted = launch(folder / "alone", FAULTS["empty"], options.limit).losses
        for fault in faults:
            for layout in layouts:
                for world in worlds:
                    hangs = fault in ("hang", "worker")
                    more = [f"parallel.processes={world}", *([f"parallel.timeout={options.timeout}"] if hangs else [])]
                    job = launch(folder / f"{fault}_{layout}_{world}", [*FAULTS[fault], *LAYOUTS[layout], *more], options.limit)
                    wrong = judge(fault, job, options.timeout, wanted)
                    named = [what for what, pattern in NAMED.items() if re.search(pattern, job.errors)] if fault != "empty" else []
                    last = re.findall(r"^error: (.*)$", job.errors, re.MULTILINE)
                    seconds = f"{job.seconds - (options.timeout if hangs else 0):.1f}" if fault != "empty" else ""
                    told = last[-1][:80] if last else "same losses as one process" if fault == "empty" and not wrong else ""
                    rows.append([fault, layout, world, job.code, seconds, ", ".join(named), told])
                    print(f"{fault}, {layout}, {world} processes: exit code {job.code}{', ' + '; '.join(wrong) if wrong else ''}", flush=True)
                    if wrong:
                        problems += [f"{fault}, {layout}, {world} processes: {one}" for one in wrong]
                        print(job.errors[-3000:], flush=True)
    heads = ["fault of rank 1", "layout", "processes", "exit code", "seconds to the end of all (beyond the time-out)", "named of it", "last line"]
    print("\n" + markdown(heads, rows))
    return verdict(problems)


if __name__ == "__main__":
    sys.exit(main())
