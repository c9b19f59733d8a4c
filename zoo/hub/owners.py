"""Whose a partial file is: blobs/<sum>.HOST-PID-TOKEN.partial. No lock is believed in; a name, a process and the time of the last write are."""

import hashlib
import os
import re
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

ABANDONED = 3600.0
"""Seconds without a write after which a partial file of another machine has no owner any more."""
PARTIAL = re.compile(r"(?P<sum>[0-9a-f]+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.partial")


@cache
def host() -> str:
    """Of this machine and this container: process numbers mean something in their own one only, and neither has to have a name of its own."""
    told = [socket.gethostname()]
    with suppress(OSError):  # not Linux
        told += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def abandoned(path: Path) -> bool:
    """Whether nobody writes to a partial file any more."""
    found = PARTIAL.fullmatch(path.name)
    if found is None:
        return False
    if released(path):
        return True
    if found["host"] == host():
        return not alive(int(found["pid"]))
    return age(path) > ABANDONED


def released(path: Path) -> bool:
    found = PARTIAL.fullmatch(path.name)
    return found is not None and int(found["pid"]) == 0


def age(path: Path) -> float:
    """Seconds since the last write."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def bytes_at(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
