"""Gradients of one optimizer step, summed over ranks.

Losses are divided by the global count before the backward pass, so that ranks' gradients have to be added, not averaged. Torch's
``DistributedDataParallel`` averages, wants the model's ``forward`` to be the wrapped call, and hangs where a parameter has a gradient
on one rank only. Here the backward pass is an ordinary one, and its gradients are copied into one flat buffer, which is reduced once
a step; the same buffer carries the loss terms (so that logs cost no collective of their own) and which parameters had a gradient.

The buffer runs from the last parameter to the first, as the backward pass does, and is cut into buckets. While the pass goes on, a bucket whose
gradients are all there is on its way to the other ranks already; in the order of the buckets, so that ranks agree whatever part of a model they used.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from zoo.errors import ConfigError
from zoo.parallel.mesh import Mesh
from zoo.parallel.sharding import Piece, is_sharded, squared_norm

BUCKET = 25 * 2**20
"""Bytes, as torch's DistributedDataParallel has it: much less, and starting a collective takes longer than what it sends."""
ALIGN = 16
"""Slots start at multiples of this many numbers, so that kernels see aligned memory."""


class Gradients:
    """The gradients of ``parameters``.

    Args:
        parameters: those that the optimizer updates, in the same order on every rank: the model's own, or this process's parts of them.
        mesh: the ranks.
        owners: of each part, by its ``id``, the model's parameter; a parameter that is whole here need not be in it.
        pieces: which parts they are, by the ``id`` of the part.
        summed: whether the backward pass sums them over ranks already (FSDP2).
        bucket: bytes that are sent at once; None takes ``BUCKET``.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        mesh: Mesh,
        *,
        owners: dict[int, nn.Parameter] | None = None,
        pieces: dict[int, Piece] | None = None,
        summed: bool = False,
        bucket: int | None = None,
    ) -> None:
        self.parameters, self.mesh, self.group, self.summed = parameters, mesh, mesh.data, summed
        self.parts = [(part, owner) for part in parameters if (owner := (owners or {}).get(id(part), part)) is not part]
        pieces = pieces or {}
        self.copies = {id(part): pieces[id(part)].copies if id(part) in pieces else mesh.world.size for part in parameters}
        self.flat: dict[torch.dtype, Tensor] = {}
        self.slots: list[Tensor] = []
        self.tail: Tensor | None = None
        self.bucket = bucket or BUCKET
        self.buckets: list[Bucket] = []
        self._armed = False
        self._hooked = set[int]()
        self._sent = 0
        self._underway: list[Any] = []

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        for _, owner in self.parts:
            owner.grad = None

    def arm(self) -> None:
        """The next backward pass is the last one of this step: what it completes may be sent."""
        self._armed = len(self.buckets) > 1 and not self.parts  # parts of shared tensors are known after the backward pass only
        for bucket in self.buckets if self._armed else ():
            trained = [place for place in bucket.members if self.parameters[place].requires_grad]  # those that are frozen now get no gradient
            bucket.missing = len(trained)
            for place in trained:
                if place not in self._hooked:
                    self._hooked.add(place)
                    self.parameters[place].register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def collect(self, extras: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients that any rank has, and ``extras`` (one number each), both summed over ranks.

        Afterwards ``parameter.grad`` is the sum; None where no rank had one, so that the optimizer leaves the parameter alone exactly
        as it would in a single process.
        """
        for part, owner in self.parts:
            part.grad = None if owner.grad is None else _part(owner.grad, owner)
        if self.group.size == 1 or self.summed:
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            return gradients, extras if self.group.size == 1 else list(self.group.sum(torch.stack(extras)).unbind())
        if self.tail is None:
            self._allocate(len(extras))
        assert self.tail is not None
        self._armed = False
        have = [parameter.grad is not None for parameter in self.parameters]
        count = len(extras)
        self.tail[:count] = torch.stack(extras).to(self.tail.dtype)
        self.tail[count:] = torch.tensor(have, dtype=self.tail.dtype)
        while self._sent < len(self.buckets):
            self._send()
        for work in self._underway:
            work.wait()
        self._underway, self._sent = [], 0
        used = have if all(have) else (self.tail[count:] > 0).tolist()
        gradients = []
        for parameter, slot, anywhere in zip(self.parameters, self.slots, used, strict=True):
            parameter.grad = slot if anywhere else None
            if anywhere:
                gradients.append(slot)
        return gradients, list(self.tail[:count].unbind())

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Euclidean norm of the whole gradient; ``gradients`` are what ``collect`` gave.

        Raises:
            ConfigError: where no parameter has a gradient.
        """
        if not self.mesh.degrees.sharded or not gradients:
            return total_norm(gradients)
        return squared_norm([(parameter.grad, self.copies[id(parameter)]) for parameter in self.parameters if parameter.grad is not None]).sqrt()

    def _allocate(self, extras: int) -> None:
        device = self.parameters[0].device
        widest = torch.float64 if any(parameter.dtype == torch.float64 for parameter in self.parameters) else torch.float32
        sizes: dict[torch.dtype, int] = {widest: 0}
        places = [0] * len(self.parameters)
        for place in reversed(range(len(self.parameters))):
            parameter = self.parameters[place]
            places[place] = start = sizes.get(parameter.dtype, 0)
            sizes[parameter.dtype] = start + -(-parameter.numel() // ALIGN) * ALIGN
        tail = sizes[widest]
        sizes[widest] = tail + extras + len(self.parameters)
        self.flat = {dtype: torch.zeros(size, dtype=dtype, device=device) for dtype, size in sizes.items()}
        self.slots = [
            # In the parameter's memory format: fused kernels walk over both in the order of memory.
            self.flat[parameter.dtype].as_strided(parameter.shape, torch.empty_like(parameter, device="meta").stride(), start)
            for parameter, start in zip(self.parameters, places, strict=True)
        ]
        self.tail = self.flat[widest][tail:]
        self._cut(places)

    def _cut(self, places: list[int]) -> None:
        """Buckets, in the order of sending; the one with the tail is the last, since it is known after the backward pass only."""
        assert self.tail is not None
        for dtype, flat in sorted(self.flat.items(), key=lambda entry: entry[0] == self.tail.dtype):  # type: ignore[union-attr]
            start, members = 0, list[int]()
            for place in reversed(range(len(self.parameters))):
                if self.parameters[place].dtype != dtype:
                    continue
                if members and (places[place] - start) * flat.element_size() >= self.bucket:
                    self.buckets.append(Bucket(flat[start : places[place]], members))
                    start, members = places[place], []
                members.append(place)
            self.buckets.append(Bucket(flat[start:], members))

    def _arrived(self, bucket: "Bucket", parameter: Tensor) -> None:  # noqa: ARG002 - torch's hook
        if not self._armed:
            return
        bucket.missing -= 1
        while self._sent < len(self.buckets) - 1 and self.buckets[self._sent].missing == 0:
            self._send()

    def _send(self) -> None:
        """The next bucket; zeros for parameters that this rank has no gradient of."""
        bucket = self.buckets[self._sent]
        self._sent += 1
        pairs = [(self.slots[place], gradient) for place in bucket.members if (gradient := self.parameters[place].grad) is not None]
        if pairs:
            torch._foreach_copy_([slot for slot, _ in pairs], [gradient for _, gradient in pairs])
        if len(pairs) < len(bucket.members):
            torch._foreach_zero_([self.slots[place] for place in bucket.members if self.parameters[place].grad is None])
        self._underway.append(distributed.all_reduce(bucket.buffer, group=self.group.handle, async_op=True))


class Bucket:
    """A stretch of the flat buffer.

    Args:
        buffer: what is sent.
        members: places of its parameters.
    """

    def __init__(self, buffer: Tensor, members: list[int]) -> None:
        self.buffer, self.members = buffer, members
        self.missing = len(members)


def _part(gradient: Any, owner: Any) -> Tensor:
    """What of an owner's gradient belongs to this process's part."""
    if not is_sharded(gradient):
        return gradient  # type: ignore[no-any-return]
    if gradient.placements != owner.placements:  # of a norm on shared positions, say: each process has the sum over its own
        gradient = gradient.redistribute(placements=owner.placements)
    return gradient.to_local()  # type: ignore[no-any-return]


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Euclidean norm over all gradients; ``torch.nn.utils.get_total_norm`` without its sorting by device and type, which takes longer than the norm."""
    if not gradients:
        raise ConfigError(
            "model",
            "no parameter has a gradient: the loss does not depend on any trainable parameter",
            "in a component of your own: no detach() or torch.no_grad() between the parameters and the loss",
            "parameters that are to be trained with requires_grad=True",
        )
    norms = torch._foreach_norm(gradients)
    if any(norm.dtype != norms[0].dtype for norm in norms):
        norms = tuple(norm.to(torch.float32) for norm in norms)
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    return total
