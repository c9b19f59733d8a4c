"""Licences that a model card may name. Imports nothing but errors."""

from zoo.errors import ZooError, near

OTHER = "other"
# fmt: off
LICENCES = frozenset(
    {
        "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5",
        "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
        "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2",
        "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "grok2-community", "h-research", "intel-research", "isc",
        "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0",
        "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openmdw-1.0", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unknown",
        "unlicense", "wtfpl", "zlib", "other",
    }
)
# fmt: on
"""What the Hugging Face Hub takes as ``license`` of a card: SPDX's names in small letters, and its own
(https://huggingface.co/docs/hub/repositories-licenses)."""


def check_licence(licence: str) -> None:
    """Whether the Hub knows a licence, in whatever case it is written.

    Raises:
        ZooError: with near names.
    """
    if licence.lower() in LICENCES:
        return
    close = near(licence, LICENCES)
    ways = [" or ".join(close)] if close else []
    ways.append(f"{OTHER}, for a licence that the Hub has no name for; its names: https://huggingface.co/docs/hub/repositories-licenses")
    told = "".join(f"\n  way out{f' {number}' if len(ways) > 1 else ''}: {way}" for number, way in enumerate(ways, 1))
    raise ZooError(f"--licence {licence}: the Hugging Face Hub has no licence of that name, and would refuse the card{told}")
