"""--import: real errors, re-import harmless, handed to child processes (R15)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo.errors import RegistryError, ZooError
from zoo.plugins import ENVIRONMENT, import_components, import_from_environment

COMPONENT = '''from zoo.registry import SCHEDULES

@SCHEDULES.register("{name}")
def {name}(*, height: float = 2.0):
    """A schedule of one's own.

    Args:
        height: of it.
    """
    return lambda step: height
'''


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from zoo.registry import SCHEDULES

    before, path = dict(SCHEDULES._live), list(sys.path)
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    yield
    SCHEDULES._live.clear()
    SCHEDULES._live.update(before)
    sys.path[:] = path
    sys.modules.pop("my_schedule", None)


def test_a_file_registers_and_again_is_harmless(tmp_path: Path) -> None:
    from zoo.compose import compose
    from zoo.registry import SCHEDULES

    file = tmp_path / "my_schedule.py"
    file.write_text(COMPONENT.format(name="mine"))
    import_components([str(file)])
    import_components([str(file)])
    assert "mine" in SCHEDULES.names()
    assert compose(["schedule=mine", "schedule.height=3"]).schedule == {"name": "mine", "height": 3.0}


def test_children_import_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.registry import SCHEDULES

    (tmp_path / "my_schedule.py").write_text(COMPONENT.format(name="theirs"))
    monkeypatch.chdir(tmp_path)
    import_components(["my_schedule.py"])
    import os

    assert json.loads(os.environ[ENVIRONMENT]) == [str(tmp_path / "my_schedule.py")]
    del sys.modules["my_schedule"], SCHEDULES._live["theirs"]
    monkeypatch.chdir("/")
    import_from_environment()
    assert "theirs" in SCHEDULES.names()


def test_the_imports_own_error_comes_out(tmp_path: Path) -> None:
    file = tmp_path / "my_schedule.py"
    file.write_text("import math\nmath.no_such_function\n")
    with pytest.raises(ZooError, match=r"AttributeError: module 'math' has no attribute 'no_such_function'\n.*my_schedule\.py:2"):
        import_components([str(file)])
    with pytest.raises(ZooError, match="there is no such file"):
        import_components([str(tmp_path / "other.py")])
    with pytest.raises(ZooError, match="No module named 'not_installed_anywhere'"):
        import_components(["not_installed_anywhere"])


def test_a_duplicate_names_both_files(tmp_path: Path) -> None:
    file = tmp_path / "my_schedule.py"
    file.write_text(COMPONENT.format(name="cosine"))
    with pytest.raises(RegistryError, match=r"registered twice: .*schedules\.py.*my_schedule\.py"):
        import_components([str(file)])
