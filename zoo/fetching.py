"""Whether components may fetch weights now. They may when a run begins; not where the weights come from a bundle or a checkpoint.

A component that downloads asks ``may_fetch()`` in its constructor, and where the answer is no it builds the same parameters without values
of their own. Imports nothing of zoo.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ALLOWED: ContextVar[bool] = ContextVar("zoo_fetching", default=True)


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
