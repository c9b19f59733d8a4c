"""The argument parser of every command: its mistakes are the user's, told as zoo tells all of them."""

import argparse
from typing import NoReturn

from zoo.errors import ZooError

OVERRIDES = "everything else has the form key=value"


class CommandParser(argparse.ArgumentParser):
    """Argparse without its own help and exits.

    Args:
        command: of ``zoo``.
        way_out: what follows "`zoo COMMAND --help` lists the options; ", e.g. how the command is typed.
    """

    def __init__(self, command: str, way_out: str) -> None:
        super().__init__(prog=f"zoo {command}", add_help=False, allow_abbrev=False)
        self.way_out = way_out
        self.add_argument("--help", "-h", action="store_true")
        self.add_argument("--json", action="store_true")

    def error(self, message: str) -> NoReturn:
        raise ZooError(f"{self.prog}: {message}\n  way out: `{self.prog} --help` lists the options; {self.way_out}")
