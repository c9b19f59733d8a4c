"""A plan: one workload, one device, one layout."""

from dataclasses import dataclass
from typing import Any

from zoo.errors import ConfigError
from zoo.plan.communication import Transfer, When, transfers
from zoo.plan.devices import Device
from zoo.plan.layout import Layout, Strategy, check_layout
from zoo.plan.memory import Memory, of_layout
from zoo.plan.operations import Kind, Phase
from zoo.plan.time import CONSTANTS, Compute, Constants, Prediction, step_seconds
from zoo.plan.trace import Numbers
from zoo.plan.workload import Comparison, Step, Workload
from zoo.settings import Recompute

USABLE = 0.95
"""Of a device's memory; the rest is the driver's, the collectives' and the allocator's. A judgement, not a measurement."""
_WHEN = {Phase.FORWARD: When.FORWARD, Phase.BACKWARD: When.BACKWARD}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a step is computed.

    Args:
        layout: over the devices.
        batch: samples of an optimizer step, over all devices and micro-batches.
        accumulate: micro-batches that each device's samples are split into.
        bf16: bf16, by autocast where parameters are whole, gathered in bf16 where they are sharded; else fp32.
        float8: float8 products in the blocks.
        compiled: torch.compile.
        checkpointing: of the blocks.
        every: the first of each so many blocks is checkpointed.
    """

    layout: Layout
    batch: int
    accumulate: int = 1
    bf16: bool = False
    float8: bool = False
    compiled: bool = False
    checkpointing: Recompute = Recompute.NONE
    every: int = 1

    @property
    def micro_batch(self) -> int:
        """Samples that a device computes at once; the largest, where the split is uneven."""
        return -(-self.batch // (self.layout.data * self.accumulate))

    def check(self) -> None:
        parts = self.layout.data * self.accumulate
        if self.batch < parts:
            raise ConfigError(
                "--batch",
                f"{self.batch} samples cannot be split over {self.layout.data} data-parallel devices x {self.accumulate} micro-batches",
                f"--batch {parts} or more",
                "a larger --tp, a smaller --world or trainer.accumulate",
            )
        if self.float8 and not (self.bf16 and self.compiled):
            raise ConfigError("--precision", "float8 products are cast by compiled bf16 code", "--precision float8 --compile")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What comes of it.

    Args:
        workload: what is trained.
        device: on which.
        choices: how.
        memory: of one device.
        moved: over the links, in a step.
        prediction: of time.
        step: the traced micro-batch.
        comparison: of the whole batch's rows, where the loss is one.
        forwards: how often a micro-batch runs forward.
    """

    workload: Workload
    device: Device
    choices: Choices
    memory: Memory
    moved: list[Transfer]
    prediction: Prediction
    step: Step
    comparison: Comparison | None = None
    forwards: int = 1

    @property
    def usable(self) -> float:
        return self.device.memory * USABLE

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.usable

    @property
    def rate_per_device(self) -> float:
        """Tokens a second and device; samples where there are no tokens."""
        whole = self.prediction.tokens_per_second or self.prediction.samples_per_second
        return whole / self.choices.layout.world


def plan(workload: Workload, device: Device, choices: Choices, constants: Constants = CONSTANTS, *, estimate: bool = False) -> Plan:
    """Memory, traffic and time of a step.

    Args:
        workload: what is trained.
        device: on which.
        choices: how.
        constants: what no data sheet says.
        estimate: scale a step that was traced with other samples, instead of tracing this one.

    Raises:
        ConfigError: for a layout or a batch that is not legal.
    """
    layout = choices.layout
    check_layout(layout, workload.dimensions)
    choices.check()
    if choices.float8 and "float8" not in device.peak:
        raise ConfigError("--precision", f"float8: {device.name} has no such products", "--precision bf16", "--device h100 or h200")
    sharded = layout.strategy is not Strategy.DDP and layout.shard > 1
    numbers = (Numbers.BF16 if sharded or layout.tensor > 1 else Numbers.AUTOCAST) if choices.bf16 else Numbers.FP32
    kind = "cpu" if device.launches else "cuda"
    comparison = workload.comparison(choices.batch, numbers, kind)
    again = comparison is not None and choices.accumulate > 1
    step = (workload.estimate if estimate else workload.step)(choices.micro_batch, numbers, choices.checkpointing, choices.every, kind, again=again)
    update = workload.update()
    element = 2 if choices.bf16 else 4
    moved = transfers(
        layout,
        parameters=workload.parameters,
        trained=workload.trained,
        blocks=workload.dimensions.blocks,
        micro_batches=choices.accumulate,
        gathered=element,
        block_input=step.block_input,
        recomputed=choices.checkpointing is Recompute.FULL,
        gathers_again=choices.checkpointing is not Recompute.NONE,
        float8=choices.float8,
        element=element,
        forwards=2 if again else 1,
        compared=comparison.step.inputs if comparison else 0.0,
        tensors=comparison.tensors if comparison else 0,
    )
    parts = step_seconds(
        compute_seconds(step, device, choices, constants, tensor=layout.tensor),
        moved,
        device=device,
        layout=layout,
        micro_batches=choices.accumulate,
        update_bytes=update.traffic / (layout.shard * layout.tensor),
        update_kernels=update.kernels,
        compiled=choices.compiled,
        blocks=workload.dimensions.blocks,
        constants=constants,
        once=compute_seconds(comparison.step, device, choices, constants, tensor=1) if comparison else None,
    )
    seconds = sum(parts.values())
    samples = choices.batch / seconds
    peak = device.peak["bf16" if choices.bf16 else "fp32"]
    prediction = Prediction(
        seconds=seconds,
        parts=parts,
        samples_per_second=samples,
        tokens_per_second=samples * workload.positions if workload.positions else None,
        mfu=(step.flops / step.rows * choices.batch + (comparison.step.flops if comparison else 0)) / (seconds * layout.world * peak),
    )
    memory = of_layout(
        workload,
        step,
        update,
        layout,
        checkpointing=choices.checkpointing,
        bf16=choices.bf16,
        comparison=comparison,
        micro_batches=choices.accumulate,
    )
    return Plan(
        workload=workload,
        device=device,
        choices=choices,
        memory=memory,
        moved=moved,
        prediction=prediction,
        step=step,
        comparison=comparison,
        forwards=1 + again,
    )


def compute_seconds(step: Step, device: Device, choices: Choices, constants: Constants, *, tensor: int) -> Compute:
    """One micro-batch on one of ``tensor`` devices that share it: each product and attention at its rate, or at the memory's where that takes longer."""
    stream = device.bandwidth * constants.stream
    products, attention = dict.fromkeys(When, 0.0), dict.fromkeys(When, 0.0)
    for work, count in step.works.items():
        narrow = work.width <= 2
        peak = device.peak["bf16" if narrow else "fp32"]
        if work.kind is Kind.ATTENTION:
            rate = peak * device.attention
        else:
            rate = peak * device.products * constants.products
            rate *= constants.float8 if choices.float8 and work.in_block and narrow else 1.0
        seconds = max(work.work / rate, work.bytes / stream) * count / tensor
        (attention if work.kind is Kind.ATTENTION else products)[_WHEN[work.phase]] += seconds
    memory = dict.fromkeys(When, 0.0)
    for phase, when in _WHEN.items():
        moved = (step.fused if choices.compiled else step.eager)[phase] + (step.casts[phase] if choices.float8 else 0)
        memory[when] = moved / tensor / stream
    return Compute(products=products, attention=attention, memory=memory, kernels=step.fused_kernels if choices.compiled else step.eager_kernels)


def to_dict(made: Plan) -> dict[str, Any]:
    """What ``--json`` gives."""
    choices, layout, prediction = made.choices, made.choices.layout, made.prediction
    return {
        "model": made.workload.name,
        "parameters": made.workload.parameters,
        "trained_parameters": made.workload.trained,
        "device": made.device.name,
        "layout": {
            "strategy": str(layout.strategy),
            "world": layout.world,
            "data": layout.data,
            "shard": layout.shard,
            "replicate": layout.replicate,
            "tensor": layout.tensor,
        },
        "batch": choices.batch,
        "accumulate": choices.accumulate,
        "micro_batch": choices.micro_batch,
        "precision": "float8" if choices.float8 else "bf16" if choices.bf16 else "fp32",
        "compile": choices.compiled,
        "checkpoint": str(choices.checkpointing),
        "checkpoint_every": choices.every,
        "memory_bytes": made.memory.to_dict(),
        "memory_usable_bytes": round(made.usable),
        "fits": made.fits,
        "communication_bytes": [
            {
                "collective": str(transfer.collective),
                "of": transfer.purpose,
                "between": str(transfer.axis),
                "when": str(transfer.when),
                "devices": transfer.group,
                "calls": transfer.calls,
                "bytes": round(transfer.bytes),
            }
            for transfer in made.moved
        ],
        "comparison": made.comparison
        and {
            "rows": made.comparison.step.rows,
            "forward_passes": made.forwards,
            "gathered_bytes": made.comparison.step.inputs,
            "peak_bytes": made.comparison.step.step,
            "flops": made.comparison.step.flops,
        },
        "seconds": prediction.seconds,
        "seconds_by_part": prediction.parts,
        "samples_per_second": prediction.samples_per_second,
        "tokens_per_second": prediction.tokens_per_second,
        "tokens_per_second_per_device": prediction.tokens_per_second and prediction.tokens_per_second / layout.world,
        "flops_per_sample": made.step.flops // made.step.rows,
        "mfu": prediction.mfu,
    }
