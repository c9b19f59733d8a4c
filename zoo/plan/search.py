"""The cheapest legal layout that fits and meets a target.

Cheapest means fewest devices, and among equals the shortest step. Every combination is estimated from a few traces; the best of them are
planned exactly, in order, until one holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from zoo.errors import ConfigError, did_you_mean
from zoo.plan.devices import GIB, Device
from zoo.plan.layout import Layout, Strategy, legal_layouts
from zoo.plan.planner import Choices, Plan, plan
from zoo.plan.workload import Workload
from zoo.settings import Recompute

MARGIN = 0.97
"""Estimates may miss the target by this factor and still be looked at."""


class Goal(StrEnum):
    TOKENS = "tokens_per_second"
    SAMPLES = "samples_per_second"


@dataclass(frozen=True)
class Target:
    """Throughput of all devices together."""

    goal: Goal
    value: float

    def rate(self, made: Plan) -> float:
        rate = made.prediction.tokens_per_second if self.goal is Goal.TOKENS else made.prediction.samples_per_second
        if rate is None:
            raise ConfigError("--target", f"{self.goal}: samples of {made.workload.name} are no sequences", f"--target {Goal.SAMPLES}=...")
        return rate

    def __str__(self) -> str:
        return f"{self.goal}={self.value:g}"


def parse_target(text: str) -> Target:
    """``tokens_per_second=100000``.

    Raises:
        ConfigError: for another name, or no number above 0.
    """
    name, _, value = text.partition("=")
    names = [str(goal) for goal in Goal]
    if name not in names:
        raise ConfigError("--target", f"{name!r} is no goal; {did_you_mean(name, names)}", *(f"--target {goal}=NUMBER" for goal in names))
    try:
        number = float(value.replace(",", "").replace("_", ""))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError("--target", f"{value!r} is no number above 0", f"--target {name}=100000")
    return Target(Goal(name), number)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may vary; None where everything legal may.

    Args:
        world: most devices.
        exactly: whether exactly so many.
        strategy: of data parallelism.
        tensor: degree.
        checkpointing: of activations.
        accumulate: micro-batches.
    """

    world: int
    exactly: bool = False
    strategy: Strategy | None = None
    tensor: int | None = None
    checkpointing: Recompute | None = None
    accumulate: int | None = None


def candidates(workload: Workload, device: Device, choices: Choices, space: Space) -> Iterator[Choices]:
    """Every combination; batch, precision and compilation are the user's."""
    worlds = [space.world] if space.exactly else sorted({space.world, *(2**power for power in range(space.world.bit_length()) if 2**power <= space.world)})
    kinds = [space.checkpointing] if space.checkpointing else list(Recompute) if workload.dimensions.blocks else [Recompute.NONE]
    for world in worlds:
        strategies = [space.strategy] if space.strategy else list(Strategy)
        for layout in legal_layouts(world, workload.dimensions, strategies, device.per_node):
            if space.tensor not in (None, layout.tensor) or layout.data > choices.batch:
                continue
            most = choices.batch // layout.data
            splits = [space.accumulate] if space.accumulate else [2**power for power in range(most.bit_length()) if 2**power <= most]
            for kind in kinds:
                for accumulate in splits:
                    if layout.data * accumulate <= choices.batch:
                        yield replace(choices, layout=layout, checkpointing=kind, accumulate=accumulate)


def ranked(workload: Workload, device: Device, choices: Choices, space: Space, target: Target | None = None) -> list[Plan]:
    """Estimates of everything that fits, and meets the target where there is one, cheapest first; without a target the fastest first."""
    estimates = [plan(workload, device, one, estimate=True) for one in candidates(workload, device, choices, space)]
    fitting = [made for made in estimates if made.fits and (target is None or target.rate(made) >= MARGIN * target.value)]
    return sorted(fitting, key=lambda made: (made.choices.layout.world if target else 0, made.prediction.seconds, made.memory.total))


def cheapest(workload: Workload, device: Device, choices: Choices, space: Space, target: Target | None = None) -> Plan:
    """The first of them that holds when it is planned exactly.

    Raises:
        ConfigError: where nothing does, with the best that there is.
    """
    for estimate in ranked(workload, device, choices, space, target):
        made = plan(workload, device, estimate.choices)
        if made.fits and (target is None or target.rate(made) >= target.value):
            return made
    fastest = next((made for estimate in ranked(workload, device, choices, space) if (made := plan(workload, device, estimate.choices)).fits), None)
    if fastest is None:
        least = min((plan(workload, device, one, estimate=True) for one in candidates(workload, device, choices, space)), key=lambda made: made.memory.total)
        raise does_not_fit(least, "no layout of them fits")
    assert target is not None
    rate, devices = target.rate(fastest), fastest.choices.layout.world
    raise ConfigError(
        "--target",
        f"{target}: {space.world} {device.name} reach {rate:,.0f} at most ({describe(fastest.choices)})",
        f"--world {2 ** max(1, (int(devices * target.value / rate) - 1).bit_length())} or so, with a --batch that it can split",
        "a faster --device, --compile, --precision bf16 or float8",
    )


def fitting_alternatives(made: Plan, limit: int = 3) -> list[Choices]:
    """What would fit in place of a plan that does not: on as many devices, else on more of them; fastest first."""
    world = made.choices.layout.world
    for more in (world, world * 2, world * 4, world * 8, world * 16, world * 32):
        found: list[Choices] = []
        batch = replace(made.choices, batch=max(made.choices.batch, more))
        for estimate in ranked(made.workload, made.device, batch, Space(world=more, exactly=True)):
            if plan(made.workload, made.device, estimate.choices).fits:
                found.append(estimate.choices)
            if len(found) == limit:
                break
        if found:
            return found
    return []


def does_not_fit(made: Plan, lead: str = "does not fit") -> ConfigError:
    """By how much, and what would."""
    memory, over = made.memory.to_dict(), made.memory.total - made.usable
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in memory.items() if size and name != "total")
    ways = [f"{flags(choices)}" for choices in fitting_alternatives(made)] or ["a smaller model or --sequence, or a --device with more memory"]
    return ConfigError(
        "memory",
        f"{made.workload.name} on {made.device.name} ({describe(made.choices)}) {lead}: {memory['total'] / GIB:.1f} GiB of {made.usable / GIB:.1f} usable, "
        f"{over / GIB:.1f} too many ({parts})",
        *ways,
    )


def describe(choices: Choices) -> str:
    world = choices.layout.world
    parts = [f"{world} device{'s' * (world > 1)}", str(choices.layout), f"{choices.batch} samples a step"]
    parts += [f"in {choices.accumulate} micro-batches"] if choices.accumulate > 1 else []
    parts += [f"{choices.checkpointing} checkpointing"] if choices.checkpointing is not Recompute.NONE else []
    return ", ".join(parts)


def flags(choices: Choices) -> str:
    """The command line that asks for them."""
    layout: Layout = choices.layout
    words = [f"--world {layout.world}", f"--strategy {layout.strategy}"]
    words += [f"--replicate {layout.replicate}"] if layout.replicate > 1 else []
    words += [f"--tp {layout.tensor}"] if layout.tensor > 1 else []
    words += ["--precision " + ("float8" if choices.float8 else "bf16" if choices.bf16 else "fp32")] + (["--compile"] if choices.compiled else [])
    words += [f"--checkpoint {choices.checkpointing}"]
    words += [f"--checkpoint-every {choices.every}"] if choices.every > 1 else []
    words += [f"--batch {choices.batch}", f"--accumulate {choices.accumulate}"]
    return " ".join(words)
