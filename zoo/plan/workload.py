"""What is planned for: a model, the form of its samples, its optimizer; and one step of it, summed up.

Stacks of equal blocks are traced at two depths and continued in a straight line: everything that is summed here grows by the same
amount with each block. A test holds that equal to tracing the whole stack.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo.parallel.recompute import repeated
from zoo.plan.layout import Dimensions
from zoo.plan.operations import Kind, Operation, Phase
from zoo.plan.shapes import TransformerShape
from zoo.plan.trace import Numbers, Trace, compares, trace_comparison, trace_step, trace_update
from zoo.plan.traffic import cast_traffic, eager_traffic, fused_traffic
from zoo.settings import Recompute
from zoo.structs import Batch, Values

SHALLOW = 4
"""Blocks from which on a stack is continued instead of traced."""


SIZES = ("flops", "saved", "activations", "step")
BY_PHASE = ("eager", "fused", "casts")


class Work(NamedTuple):
    """Equal operations that count for a rate: matrix products (of blocks or not) and attention."""

    kind: Kind
    phase: Phase
    in_block: bool
    width: int
    flops: int
    work: int
    bytes: int


@dataclass(frozen=True)
class Step:
    """Forward and backward of one micro-batch on one device that holds the whole model.

    Args:
        rows: samples.
        works: matrix products and attentions, with how many there are of each.
        flops: what the model asks for, without what checkpointing or a second forward pass computes again.
        saved: bytes that autograd keeps from the forward pass.
        activations: most bytes at once beside parameters, gradients and inputs.
        step: most bytes at once beside parameters and inputs, gradients included.
        inputs: bytes of the batch.
        block_input: bytes of what enters a block.
        eager: bytes that everything else moves, by phase.
        fused: the same compiled.
        casts: bytes that casting the blocks' products to float8 moves.
        eager_kernels: kernels in all.
        fused_kernels: the same compiled.
    """

    rows: int
    works: Counter[Work]
    flops: int
    saved: int
    activations: int
    step: int
    inputs: int
    block_input: int
    eager: dict[Phase, int]
    fused: dict[Phase, int]
    casts: dict[Phase, int]
    eager_kernels: int
    fused_kernels: int

    def scaled(self, rows: int) -> "Step":
        """About this step with so many samples: everything in proportion."""
        factor = rows / self.rows

        def larger(value: int) -> int:
            return round(value * factor)

        works: Counter[Work] = Counter()
        for work, count in self.works.items():
            works[work._replace(flops=larger(work.flops), work=larger(work.work), bytes=larger(work.bytes))] += count
        changes: dict[str, Any] = {name: larger(getattr(self, name)) for name in (*SIZES, "inputs", "block_input")}
        changes |= {name: {phase: larger(value) for phase, value in getattr(self, name).items()} for name in BY_PHASE}
        return replace(self, rows=rows, works=works, **changes)


@dataclass(frozen=True)
class Comparison:
    """The loss over the rows of a whole batch, once a step on every device, between the two passes through the model.

    Args:
        step: it and its gradient, as a step whose inputs are the gathered predictions and targets.
        tensors: that are gathered.
        gradients: bytes of the gradients with respect to the predictions of all rows, kept until the step ends.
    """

    step: Step
    tensors: int
    gradients: int

    def gathered(self, rows: int) -> int:
        """Bytes of so many rows' predictions and targets."""
        return self.step.inputs * rows // self.step.rows


@dataclass(frozen=True)
class Update:
    """The optimizer's step over all parameters in fp32.

    Args:
        states: bytes that it keeps.
        traffic: bytes that it moves, clipping included.
        extra: most bytes at once beside parameters, gradients and states.
        kernels: in all.
    """

    states: int
    traffic: int
    extra: int
    kernels: int


@dataclass
class Workload:
    """A model to plan for.

    Args:
        name: for people.
        model: on the meta device, with ``losses``.
        batch: one row or more, on the meta device.
        optimizer: makes the optimizer of a model.
        positions: of a sample's sequence; None where it has none.
        dimensions: what degrees have to divide.
        ema: whether an average of the weights is kept.
    """

    name: str
    model: nn.Module
    batch: Batch
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    positions: int | None
    dimensions: Dimensions
    ema: bool = False
    _steps: dict[tuple[object, ...], Step] = field(default_factory=dict, repr=False)
    _comparisons: dict[tuple[object, ...], Comparison] = field(default_factory=dict, repr=False)
    _updates: list[Update] = field(default_factory=list, repr=False)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def trained(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def block_parameters(self) -> int:
        """Of the largest repeated block; all of them where there is none."""
        blocks = repeated(self.model)
        return max((sum(parameter.numel() for parameter in block.parameters()) for block in blocks), default=self.parameters)

    def root_parameters(self) -> int:
        """Outside the repeated blocks: what FSDP's outermost group gathers."""
        inside = {id(parameter) for block in repeated(self.model) for parameter in block.parameters()}
        return sum(parameter.numel() for parameter in self.model.parameters() if id(parameter) not in inside)

    def step(
        self, rows: int, numbers: Numbers, checkpointing: Recompute = Recompute.NONE, every: int = 1, device: str = "cuda", *, again: bool = False
    ) -> Step:
        key = (rows, numbers, checkpointing, every, device, again)
        if key not in self._steps:
            self._steps[key] = self._measure(rows, numbers, checkpointing, every, device, again)
        return self._steps[key]

    def estimate(
        self, rows: int, numbers: Numbers, checkpointing: Recompute = Recompute.NONE, every: int = 1, device: str = "cuda", *, again: bool = False
    ) -> Step:
        """The same from a step of another size, where one was traced: for searches, which ask for many."""
        for key, step in self._steps.items():
            if key[1:] == (numbers, checkpointing, every, device, again):
                return step if step.rows == rows else step.scaled(rows)
        return self.step(min(rows, 4), numbers, checkpointing, every, device, again=again).scaled(rows)

    def comparison(self, rows: int, numbers: Numbers, device: str = "cuda") -> Comparison | None:
        """Of a whole batch of so many rows; None where the loss is one of each row by itself."""
        if not compares(self.model):
            return None
        key = (rows, numbers, device)
        if key not in self._comparisons:
            found = trace_comparison(self.model, self.batch, rows=rows, numbers=numbers, device=device)
            self._comparisons[key] = Comparison(self._sum(found.trace), found.tensors, found.gradients)
        return self._comparisons[key]

    def update(self) -> Update:
        if not self._updates:
            trace = trace_update(self.model, self.optimizer)
            self._updates.append(Update(trace.state_bytes(), *eager_traffic(trace.operations)[:1], trace.extra(), len(trace.operations)))
        return self._updates[0]

    def _measure(self, rows: int, numbers: Numbers, checkpointing: Recompute, every: int, device: str, again: bool) -> Step:
        def measured(model: nn.Module) -> Step:
            trace = trace_step(model, self.batch, rows=rows, numbers=numbers, checkpointing=checkpointing, every=every, device=device, again=again)
            return self._sum(trace)

        depth = stack_depth(self.model)
        if depth < SHALLOW * every:
            step = measured(self.model)
        else:
            low = 2 * every + depth % every
            step = continued(measured(shallow(self.model, low)), measured(shallow(self.model, low + every)), (depth - low) // every)
        if checkpointing is Recompute.NONE and not again:
            return step
        return replace(step, flops=self.step(rows, numbers, device=device).flops)

    def _sum(self, trace: Trace) -> Step:
        layers = [layer for block in repeated(self.model) for layer in block.modules() if isinstance(layer, nn.Linear)]
        pairs = {(layer.in_features, layer.out_features) for layer in layers}

        def in_block(operation: Operation) -> bool:
            sizes = Counter(operation.sizes)
            return any(not Counter(pair) - sizes for pair in pairs)

        works: Counter[Work] = Counter()
        for operation in trace.operations:
            if operation.kind is not Kind.OTHER:
                works[Work(operation.kind, operation.phase, in_block(operation), operation.width, operation.flops, operation.work, operation.bytes)] += 1
        phases = (Phase.FORWARD, Phase.BACKWARD)
        eager = {phase: eager_traffic([operation for operation in trace.operations if operation.phase is phase])[0] for phase in phases}
        return Step(
            rows=trace.rows,
            works=works,
            flops=trace.flops(),
            saved=trace.saved,
            activations=trace.activation_peak(),
            step=trace.step_peak(),
            inputs=trace.inputs,
            block_input=trace.block_input,
            eager=eager,
            fused=fused_traffic(trace.operations)[0],
            casts=cast_traffic(trace.operations, in_block),
            eager_kernels=len(trace.operations),
            fused_kernels=fused_traffic(trace.operations)[1] + sum(works.values()),
        )


def continued(first: Step, second: Step, times: int) -> Step:
    """``first`` with what ``second`` has more of, ``times`` over."""

    def line(name: str) -> int:
        low, high = int(getattr(first, name)), int(getattr(second, name))
        return low + times * (high - low)

    def lines(name: str) -> dict[Phase, int]:
        low, high = getattr(first, name), getattr(second, name)
        return {phase: low[phase] + times * (high[phase] - low[phase]) for phase in low}

    works = Counter({work: first.works[work] + times * (second.works[work] - first.works[work]) for work in {*first.works, *second.works}})
    changes: dict[str, Any] = {name: line(name) for name in (*SIZES, "eager_kernels", "fused_kernels")}
    changes |= {name: lines(name) for name in BY_PHASE}
    return replace(first, works=works, **changes)


def stack_depth(model: nn.Module) -> int:
    """Blocks of the model's only stack, where they are equal; else 0, and the model is traced whole."""
    stacks = [getattr(module, name) for module in model.modules() for name in getattr(module, "repeats", ())]
    if len(stacks) != 1 or not isinstance(stacks[0], nn.ModuleList):
        return 0
    blocks: nn.ModuleList = stacks[0]
    shapes = {tuple((name, tuple(parameter.shape)) for name, parameter in block.named_parameters()) for block in blocks}
    return len(blocks) if len(shapes) == 1 else 0


def shallow(model: nn.Module, blocks: int) -> nn.Module:
    """A copy with the first blocks of its only stack."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        for name in getattr(module, "repeats", ()):
            setattr(module, name, getattr(module, name)[:blocks])
    return copied


# --- from what a user has -----------------------------------------------------------------------------------------------------------


def of_shape(shape: TransformerShape, name: str = "shape") -> Workload:
    """A published model by its numbers, with AdamW."""
    widths = tuple(sorted({shape.dim, shape.hidden, shape.kv_heads * shape.dim // shape.heads}))
    dimensions = Dimensions(heads=tuple(sorted({shape.heads, shape.kv_heads})), widths=widths, positions=shape.sequence, blocks=shape.layers)
    return Workload(name, shape.model(), shape.batch(), lambda model: torch.optim.AdamW(model.parameters(), fused=True), shape.sequence, dimensions)


def of_model(
    name: str, model: nn.Module, batch: Batch, optimizer: Callable[[nn.Module], torch.optim.Optimizer], positions: int | None, *, ema: bool = False
) -> Workload:
    """Any model with ``losses``."""
    blocks = repeated(model)
    heads = {heads for block in blocks for module in block.modules() if isinstance(heads := getattr(module, "heads", None), int)}
    widths = {width for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear) for width in (layer.in_features, layer.out_features)}
    dimensions = Dimensions(heads=tuple(sorted(heads)), widths=tuple(sorted(widths)), positions=positions, blocks=len(blocks))
    return Workload(name, model, batch, optimizer, positions, dimensions, ema)


def positions_of(batch: Batch) -> int | None:
    """The longest sequence of a batch's inputs, None where there is none."""
    lengths = [values.mask.shape[1] for values in batch.inputs.values() if isinstance(values, Values) and values.mask is not None and values.mask.dim() == 2]
    return max(lengths, default=None)
