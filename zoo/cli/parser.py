"""The argument parser of every command: its mistakes are the user's, told as zoo tells all of them."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from zoo.cli.output import say
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

    def options_of(self, arguments: Sequence[str], help_text: str, *needed: tuple[str, str]) -> argparse.Namespace | None:
        """Options and words in any order; None where help was asked for, which is told.

        Args:
            arguments: what was typed.
            help_text: of the command.
            needed: positional words that the command cannot do without, each with what is asked where it is missing.

        Raises:
            ZooError: for an unknown option, or a word that is missing.
        """
        options = self.parse_intermixed_args(list(arguments))
        if options.help:
            say(help_text)
            return None
        for name, question in needed:
            if not getattr(options, name):
                self.error(question)
        return options

    def error(self, message: str) -> NoReturn:
        raise ZooError(f"{self.prog}: {message}\n  way out: `{self.prog} --help` lists the options; {self.way_out}")
