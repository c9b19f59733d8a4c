"""Bytes that a device needs: parameters, gradients, optimizer, activations, and what sharding gathers for a while.

Activations are measured on fake tensors (``zoo.plan.trace``): the most bytes at once, wherever in the step that is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from zoo.plan.layout import Layout, Strategy
from zoo.plan.trace import Numbers, Trace, trace_step
from zoo.plan.workload import Comparison, Step, Update, Workload
from zoo.settings import Recompute
from zoo.structs import Batch


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device at the step's peak.

    Args:
        parameters: kept between steps, in fp32; buffers too.
        gradients: at the end of the backward pass.
        optimizer: the optimizer's states, and an average of the weights where one is kept.
        activations: everything else at the peak: what autograd saves, and what is being computed.
        gathered: parameters and gradients that FSDP holds whole for a while, or DDP's buffer.
        inputs: the micro-batch.
    """

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    gathered: float = 0.0
    inputs: float = 0.0

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.gathered + self.inputs

    def to_dict(self) -> dict[str, int]:
        names = ("parameters", "gradients", "optimizer", "activations", "gathered", "inputs", "total")
        return {name: round(getattr(self, name)) for name in names}


def predict(
    model: nn.Module,
    batch: Batch,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    *,
    rows: int | None = None,
    bf16: bool = False,
    checkpointing: Recompute = Recompute.NONE,
    every: int = 1,
    device: str = "cpu",
) -> Memory:
    """Peak memory of training steps on one device, from a trace of the whole model.

    Args:
        model: with ``losses``; on any device, the meta device included. It is not touched.
        batch: of the form to train on; its values are not looked at.
        optimizer: makes the optimizer of a model; without one only the forward and backward passes count.
        rows: samples of the micro-batch; the batch's own where none is given.
        bf16: bf16 autocast, parameters and optimizer in fp32.
        checkpointing: of the model's repeated blocks.
        every: the first of each so many blocks is checkpointed.
        device: type of the device that is planned for.

    Raises:
        ConfigError: for checkpointing where the model names no repeated blocks.
    """
    numbers = Numbers.AUTOCAST if bf16 else Numbers.FP32
    return of_trace(trace_step(model, batch, rows=rows, optimizer=optimizer, numbers=numbers, checkpointing=checkpointing, every=every, device=device))


def of_trace(trace: Trace) -> Memory:
    parameters, states = sum(trace.parameters.values()), trace.state_bytes()
    gradients = sum(size for storage, size, _ in trace.changes if storage in trace.gradients and size > 0)
    activations = max(0, trace.peak() - parameters - states - gradients - trace.inputs)
    return Memory(parameters=parameters, gradients=gradients, optimizer=states, activations=activations, inputs=trace.inputs)


def of_layout(
    workload: Workload,
    step: Step,
    update: Update,
    layout: Layout,
    *,
    checkpointing: Recompute,
    bf16: bool,
    comparison: Comparison | None = None,
    micro_batches: int = 1,
) -> Memory:
    """The same for one device of a layout.

    Args:
        workload: what is trained.
        step: of one micro-batch.
        update: of the optimizer.
        layout: of the devices.
        checkpointing: of the blocks.
        bf16: whether it computes in bf16.
        comparison: of the rows of the whole batch, where the loss is one.
        micro_batches: that a step is accumulated from.
    """
    parts = layout.shard * layout.tensor
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in workload.model.buffers())
    gradients = workload.trained * 4 / parts
    average = workload.parameters * 4 / parts if workload.ema else 0.0
    activations = step.activations / layout.tensor
    if layout.tensor > 1:
        # What column-parallel products read is gathered, twice a block: kept whole by autograd, or by the block at work alone. So are, at
        # work, the partial gradients of two such products and their sum.
        blocks = 1 if checkpointing is not Recompute.NONE else workload.dimensions.blocks
        activations += (2 * blocks + 3) * step.block_input * (1 - 1 / layout.tensor)
    aside, comparing = 0, 0.0
    if comparison is not None:
        # Rows are compared before there are gradients of parameters; what the way back begins with stays to the end.
        aside, comparing = comparison.gradients, compared_bytes(comparison, step, layout, micro_batches)
    gathered = 0.0
    if layout.strategy is Strategy.DDP:
        # Gradients grow while activations shrink, and the update needs room of its own.
        within = max(step.step / layout.tensor + aside, gradients + update.extra / parts, comparing)
        activations = max(activations - step.activations / layout.tensor, 0.0) + max(0.0, within - gradients)
        gathered = gradients if layout.data > 1 else 0.0
    elif layout.shard > 1:
        element = 2 if bf16 else 4
        block, root = workload.block_parameters() / layout.tensor, workload.root_parameters() / layout.tensor
        # The block at work and the one gathered ahead; the gradient of the one at work, and its fp32 copy that is scattered; the outermost group all along.
        gathered = (2 * block + root) * element + (block + root) * element + max(block, root) * 4
        gathered = min(gathered, workload.parameters / layout.tensor * (2 * element + 4))
        if micro_batches > 1:  # gradients are scattered once a step, and stay whole up to then
            gathered += workload.trained * 4 / layout.tensor - gradients
        activations = max(activations + aside, update.extra / parts, comparing - gradients)
    return Memory(
        parameters=workload.parameters * 4 / parts + buffers,
        gradients=gradients,
        optimizer=update.states / parts + average,
        activations=activations,
        gathered=gathered,
        inputs=step.inputs,
    )


def compared_bytes(comparison: Comparison, step: Step, layout: Layout, micro_batches: int) -> float:
    """Most bytes at once while the rows of the whole batch are compared, beside parameters, optimizer and inputs."""
    own = comparison.gathered(step.rows * micro_batches)
    kept = step.saved / layout.tensor if micro_batches == 1 else own  # activations, or predictions alone, of which each micro-batch's is one
    copies = comparison.step.inputs + (own if layout.data > 1 else 0)  # joined; on several devices this one's before they are gathered
    return kept + copies + comparison.step.step
