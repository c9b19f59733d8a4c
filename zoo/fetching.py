"""Whether anything may be fetched at all (``offline``), and whether components may fetch weights now.

They may when a run begins; not where the weights come from a bundle or a checkpoint.

A component that downloads asks ``may_fetch()`` in its constructor, and where the answer is no it builds the same parameters without values
of their own. Imports nothing of zoo.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ALLOWED: ContextVar[bool] = ContextVar("zoo_fetching", default=True)


def offline() -> str | None:
    """The variable that forbids sockets, if one does."""
    for name in ("ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off"):
            return name
    return None


def tell_libraries() -> None:
    """What forbids zoo sockets forbids them to the libraries that fetch for it; they look when they are imported."""
    if offline() is not None:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ.setdefault(name, "1")


def may_fetch() -> bool:
    """Asked by components, before they download."""
    return _ALLOWED.get()


@contextmanager
def fetching(allowed: bool) -> Iterator[None]:
    """Inside, components may fetch or not; an outer no stays a no."""
    token = _ALLOWED.set(allowed and _ALLOWED.get())
    try:
        yield
    finally:
        _ALLOWED.reset(token)
