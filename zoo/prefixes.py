"""Prefixes of parameters' names, as configs give them: ``encoder.patches`` covers ``encoder.patches.proj.weight``. Imports no torch."""

from collections.abc import Iterable

from zoo.errors import ConfigError, did_you_mean


def under(name: str, prefix: str) -> bool:
    """Whether a prefix covers a name; it ends at a dot."""
    return name == prefix or name.startswith(f"{prefix}.")


def check_prefix(path: str, prefix: str, names: Iterable[str]) -> None:
    """Refuse a prefix that covers nothing.

    Raises:
        ConfigError: with near prefixes.
    """
    names = list(names)
    if not any(under(name, prefix) for name in names):
        prefixes = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
        short = [known for known in prefixes if known.count(".") < 3]
        raise ConfigError(
            path,
            f"no parameter's name begins with {prefix!r}",
            hint if (hint := did_you_mean(prefix, prefixes)).startswith("did") else did_you_mean(prefix, short),
        )


def longest(name: str, prefixes: Iterable[str]) -> str | None:
    """The longest of the prefixes that cover a name."""
    return max((prefix for prefix in prefixes if under(name, prefix)), key=len, default=None)
