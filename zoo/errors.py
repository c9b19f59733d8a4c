"""Errors for people: where it is wrong, what was given, what follows, and the way out. Imports nothing."""

from collections.abc import Iterable
from difflib import get_close_matches


class ZooError(ValueError):
    """The user's mistake, told in one message. The command line ends with exit code 2 and shows no traceback."""


class ConfigError(ZooError):
    """A config node that cannot be used.

    Args:
        path: dotted path in the config, e.g. ``model.encoder.depth``.
        problem: what is wrong, with the value that was given.
        ways_out: what to do about it; several are numbered.
        origin: where the value came from (a file, an override), if known.
    """

    def __init__(self, path: str, problem: str, *ways_out: str, origin: str | None = None) -> None:
        self.path, self.problem, self.ways_out, self.origin = path, problem, ways_out, origin
        super().__init__(compose_message(path, problem, ways_out, origin))


class ManyConfigError(ConfigError):
    """Several mistakes in one message. ``path`` and ``problem`` are of the first."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self.errors = errors
        first = errors[0]
        super().__init__(first.path, first.problem, *first.ways_out, origin=first.origin)
        if len(errors) > 1:
            self.args = (f"{len(errors)} mistakes in the config\n" + "\n".join(f"{number}. {error}" for number, error in enumerate(errors, 1)),)


class DataError(ZooError):
    """Data that cannot be read or used; names the file or the sample."""


class CheckpointError(ZooError):
    """A checkpoint or bundle that is incomplete, damaged, hostile, or does not fit."""


class RegistryError(ZooError):
    """An unknown, duplicate or malformed component."""


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def compose_message(path: str, problem: str, ways_out: tuple[str, ...], origin: str | None) -> str:
    lines = [f"{path}: {problem}" if path else problem]
    if origin:
        lines.append(f"  from: {origin}")
    if len(ways_out) == 1:
        lines.append(f"  way out: {ways_out[0]}")
    lines += [f"  way out {number}: {way}" for number, way in enumerate(ways_out, 1)] if len(ways_out) > 1 else []
    return "\n".join(lines)


def near(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names that look like ``name``, best first."""
    known = list(known)
    folded = {candidate.lower(): candidate for candidate in known}
    close = [folded[match] for match in get_close_matches(name.lower(), folded, n=limit, cutoff=0.6)]
    return close or [candidate for candidate in known if name and (name in candidate or candidate in name)][:limit]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean 'width'?`` or the whole list where nothing is near."""
    known = sorted(known)
    if close := near(name, known):
        return f"did you mean {' or '.join(repr(match) for match in close)}?"
    return f"known: {', '.join(known)}" if known else "there are none"
