"""Seeds. zoo's own randomness is keyed (``zoo.random``); this is for foreign modules that draw from torch's default generator."""

import torch

from zoo.random import key


def seed_everything(seed: int) -> None:
    """Before the model is built: the same initial weights on every rank."""
    torch.manual_seed(key("initialisation", seed) >> 1)


class StepSeeds:
    """Re-seeds torch's default generators for each (step, rank, micro-batch), so that no generator's state has to be saved.

    ``torch.manual_seed`` walks over every backend and takes a hundred times longer than the generators' own method.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self.base = key("step", seed, rank)
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[device.index or 0])
        self.everything = device.type not in ("cpu", "cuda")

    def __call__(self, step: int, part: int) -> None:
        value = (self.base ^ (step * 0x9E3779B97F4A7C15) ^ (part * 0xBF58476D1CE4E5B9)) & 0x7FFFFFFFFFFFFFFF
        if self.everything:
            torch.manual_seed(value)
            return
        for generator in self.generators:
            generator.manual_seed(value)
