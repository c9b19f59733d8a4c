"""How the next token is to be chosen. Imports no torch: the command line checks it before a model is loaded."""

from dataclasses import dataclass, fields
from typing import Any

from zoo.errors import ZooError

WRITING = (
    "tokens",
    "temperature",
    "seed",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "beams",
    "length_penalty",
    "stop",
    "stream",
)
"""Options of the command line for texts that are written; all but the first and the last are called as here."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Scores are changed in this order: repetition_penalty, temperature, top_k, top_p, min_p.

    Args:
        max_tokens: of a continuation.
        temperature: that scores are divided by before one is drawn; 0 takes the likeliest.
        seed: of what is drawn, for each text by its place.
        top_k: likeliest tokens that may be drawn; 0 for all.
        top_p: share of the distribution whose likeliest tokens may be drawn (Holtzman et al., 2020, https://arxiv.org/abs/1904.09751); 1 for all.
        min_p: share of the likeliest token's probability that a token needs to be drawn (Nguyen et al., 2024, https://arxiv.org/abs/2407.01082); 0 for any.
        repetition_penalty: that scores of tokens which are there already are divided by, or multiplied where they are negative (Keskar et al., 2019,
            https://arxiv.org/abs/1909.05858); 1 for none.
        beams: continuations that are followed side by side, of which the likeliest is given; 1 for none.
        length_penalty: power of the length that a beam's log probability is divided by; above 0 longer ones gain.
        stop: texts at which a continuation ends; they are not part of it.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refused = {
            "max_tokens": (self.max_tokens < 1, "leaves nothing to write; choose 1 or more"),
            "temperature": (not 0 <= self.temperature < float("inf"), "is not 0 (the likeliest token each time) or more; choose e.g. 0.7"),
            "top_k": (self.top_k < 0, "is negative; choose how many tokens may be drawn, or 0 for all"),
            "top_p": (not 0 < self.top_p <= 1, "is no share above 0; choose e.g. 0.9, or 1 for all"),
            "min_p": (not 0 <= self.min_p < 1, "is no share below 1; choose e.g. 0.05, or 0 for none"),
            "repetition_penalty": (not 0 < self.repetition_penalty < float("inf"), "is not above 0; choose e.g. 1.1, or 1 for none"),
            "beams": (self.beams < 1, "follows nothing; choose 1 or more"),
            "stop": ("" in self.stop, "has an empty text, which is everywhere; leave it out"),
        }
        for name, (wrong, why) in refused.items():
            if wrong:
                raise ZooError(f"{name}={getattr(self, name)} {why}")
        if self.beams > 1 and self.temperature:
            raise ZooError(
                f"temperature={self.temperature} with beams={self.beams}: beams follow the likeliest continuations and draw none; choose one of the two"
            )
        idle = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) != DEFAULTS[name] and not self.temperature]
        if idle:
            raise ZooError(
                f"{idle[0]}={getattr(self, idle[0])}: without a temperature the likeliest token is taken each time, and nothing is drawn; choose temperature=1"
            )
        if self.length_penalty != 1 and self.beams == 1:
            raise ZooError(f"length_penalty={self.length_penalty} compares beams, and there is one; choose beams=4, or leave it out")


DEFAULTS: dict[str, Any] = {entry.name: entry.default for entry in fields(Sampling)}
