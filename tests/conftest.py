"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ["WANDB_MODE"] = "disabled"  # the default logger would start a process for every run; its own tests choose their mode


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that tools/fetch_real_data.py fills; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("ZOO_REAL_DATA") or ROOT / ".real" / "x")
    if not folder.is_dir():
        pytest.skip("needs real data: python tools/fetch_real_data.py min && export ZOO_REAL_DATA=.real/x")
    return folder


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Names that are the same in every process, which pytest-xdist needs: a function's own in place of its address."""
    text = repr(val)
    return getattr(val, "__name__", argname) if " at 0x" in text else None
