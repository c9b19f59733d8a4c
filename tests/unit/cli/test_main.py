"""Dispatch, exit codes, --json, --import, errors (R24)."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from zoo.cli.main import COMMANDS, main, split_common
from zoo.cli.output import only_json, report, table
from zoo.errors import ConfigError


def test_help_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for command in COMMANDS:
        assert command in told
        assert main([command, "--help"]) == 0
        assert f"zoo {command}" in capsys.readouterr().out


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_common_words_stand_anywhere() -> None:
    assert split_common(["--import", "a", "train", "x=1", "--import=b.py", "--debug"]) == (["train", "x=1"], ["a", "b.py"], True)


@pytest.mark.parametrize("arguments", [["train", "trainer.max_stepz=1"], ["check", "model/encoder=vitt"], ["show", "vitt"], ["list", "encodr"]])
def test_errors_as_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json"]) == 2
    told = capsys.readouterr()
    assert "did you mean" in json.loads(told.out)["error"]["message"]
    assert "Traceback" not in told.err
    assert main([*arguments, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ours_and_theirs_are_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """R24: an exception in the user's file comes first, with the user's line, whatever libraries stand in between."""
    file = tmp_path / "theirs.py"
    file.write_text("def work():\n    raise RuntimeError('boom')\n")
    scope: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), scope)
    with pytest.raises(RuntimeError) as raised:
        scope["work"]()  # type: ignore[operator]
    assert report(raised.value, debug=False, as_json=False) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: RuntimeError: boom")
    assert f"{file}:2" in told
    assert report(ConfigError("a.b", "wrong", "one", "two"), debug=False, as_json=False) == 2
    assert "a.b: wrong\n  way out 1: one\n  way out 2: two" in capsys.readouterr().err


def test_only_json_holds_back_what_child_processes_print(capfd: pytest.CaptureFixture[str]) -> None:
    with only_json(True):
        print("a line")
        subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    print("{}")
    told = capfd.readouterr()
    assert told.out == "{}\n"
    assert "a line" in told.err
    assert "of a child" in told.err


def test_table() -> None:
    assert table([["a", 1234], ["long name", 5]], ["name", "count"]).splitlines() == [
        "name       count",
        "---------  -----",
        "a          1,234",
        "long name      5",
    ]


def test_light_commands_import_neither_torch_nor_hydra() -> None:
    """R15, R24: proven in one fresh process, command after command."""
    script = """
        import contextlib, io, sys
        from zoo.cli.main import main
        def heavy():
            return [name for name in ("torch", "hydra", "omegaconf", "numpy", "transformers", "timm") if name in sys.modules]
        light = ["--help", "train --help", "list", "list encoder", "list encoder vit*", "show vit", "show vit_tiny", "show trainer", "show vitt"]
        for command in map(str.split, light):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                main(command)
            assert not heavy(), (command, heavy())
        wrong = ["train trainer.max_stepz=1", "train model/encoder=vitt", "check optimizer.lr=fast", "train --cfg job", "train name=a=b"]
        for command in map(str.split, wrong):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                code = main(command)
            assert code == (0 if "--cfg" in command else 2), (command, code)
            assert "torch" not in sys.modules, command
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [["pull", "~nosuchuser/x"], ["push", "~nosuchuser/x", "hf://me/x"], ["card", "~nosuchuser/x"], ["export", "~nosuchuser/x", "--to", "y"]]
)
def test_a_home_of_nobody_is_no_error_of_ours(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "~nosuchuser/x" in capsys.readouterr().err
