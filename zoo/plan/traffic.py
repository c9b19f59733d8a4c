"""What a step moves through a device's memory, kernel by kernel or with ``torch.compile``'s fusion.

Eager, every operation reads its inputs and writes its outputs. Compiled, everything between two matrix products, convolutions or
attentions becomes few kernels: a value that is made and used up between the same two is never written. So the traced operations are cut
into segments at those anchors, and a value costs a write where something after its segment needs it, and one read in each segment that
uses it. (Inductor also fuses less than this across reductions, and recomputes more; the two are not modelled.)
"""

from collections.abc import Callable, Sequence

from zoo.plan.operations import Kind, Operation, Phase


def eager_traffic(operations: Sequence[Operation]) -> tuple[int, int]:
    """Bytes of everything that is no matrix product and no attention, and the number of its kernels."""
    others = [operation for operation in operations if operation.kind is Kind.OTHER]
    return sum(operation.bytes for operation in others), len(others)


def fused_traffic(operations: Sequence[Operation]) -> tuple[dict[Phase, int], int]:
    """The same after fusion, by phase; a write counts where it is read."""
    segment = 0
    segments: set[int] = set()
    made: dict[int, tuple[int, int]] = {}
    written: set[int] = set()
    read: set[tuple[int, int]] = set()
    total = {Phase.FORWARD: 0, Phase.BACKWARD: 0}
    for operation in operations:
        anchor = operation.kind is not Kind.OTHER
        if anchor:
            segment += 1
        else:
            segments.add(segment)
        for storage, size in operation.reads.items():
            here = made.get(storage)
            if here is not None and (anchor or here[0] != segment) and storage not in written:
                written.add(storage)
                total[operation.phase] += here[1]
            if not anchor and (here is None or here[0] != segment) and (storage, segment) not in read:
                read.add((storage, segment))
                total[operation.phase] += size
        for storage, size in operation.writes.items():
            if anchor:
                made.pop(storage, None)
            elif storage not in made or made[storage][0] != segment:
                made[storage] = (segment, size)
                written.discard(storage)
    return total, len(segments)


def cast_traffic(operations: Sequence[Operation], in_block: Callable[[Operation], bool]) -> dict[Phase, int]:
    """What dynamic float8 scaling adds: each operand of a block's product is read for its largest value, read again, and written in one byte."""
    seen: set[tuple[int, Phase]] = set()
    total = {Phase.FORWARD: 0, Phase.BACKWARD: 0}
    for operation in operations:
        if operation.kind is not Kind.PRODUCT or not in_block(operation):
            continue
        for storage, size in operation.reads.items():
            if (storage, operation.phase) not in seen:
                seen.add((storage, operation.phase))
                total[operation.phase] += 2 * size + size // operation.width
    return total
