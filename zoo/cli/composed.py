"""A composed model, measured on the meta device: tree, shapes, parameters, FLOPs, memory."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.checks import Report, check
from zoo.cli.output import table
from zoo.cli.train import parse
from zoo.compose import compose

DEPTH = 3
"""How far down the printed tree goes."""

_STATES = {"adamw": 2, "adam": 2, "rmsprop": 1, "adagrad": 1}
"""Numbers that an optimizer keeps for each parameter; the others are counted as one."""


def compose_and_measure(words: Sequence[str]) -> dict[str, Any]:
    """Compose, check and measure."""
    options = parse(words)
    return measure(check(compose(options.overrides, config_name=options.config_name, config_dir=options.config_dir)))


def measure(report: Report) -> dict[str, Any]:
    """Everything that ``zoo show`` says of a model, as plain values. FLOPs are of one sample's forward pass; a multiplication and an addition are two."""
    model, rows = report.model, report.batch.size
    shapes: dict[str, list[list[int]]] = {}
    saved = 0

    def hook(name: str, leaf: bool) -> Any:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            nonlocal saved
            tensors = _tensors(output)
            shapes.setdefault(name, [list(tensor.shape) for tensor in tensors[:2]])
            saved += sum(tensor.numel() * tensor.element_size() for tensor in tensors) if leaf else 0

        return record

    handles = [module.register_forward_hook(hook(name, not list(module.children()))) for name, module in model.named_modules()]
    counter = FlopCounterMode(display=False)
    with counter:
        model(report.batch.inputs)
    for handle in handles:
        handle.remove()
    flops = {name.removeprefix("Model.") if name != "Model" else "": sum(counts.values()) // rows for name, counts in counter.get_flop_counts().items()}
    config = report.config
    parameters = model.num_parameters()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    per_step = -(-config.loader.batch_size // (config.trainer.accumulate * config.parallel.processes))
    memory = {
        "parameters": parameters * 4,
        "gradients": trained * 4,
        "optimizer": trained * 4 * _STATES.get(config.optimizer["name"], 1),
        "activations": saved // rows * per_step,
    }
    return {
        "encoder": config.encoder["name"],
        "decoder": config.decoder["name"],
        "head": config.head["name"],
        "data": config.data["name"],
        "parameters": parameters,
        "trained_parameters": trained,
        "flops_per_sample": counter.get_total_flops() // rows,
        "memory_bytes": memory | {"micro_batch": per_step},
        "prediction": {name: ["B", *shape[1:]] for name, shape in report.prediction.items()},
        "tree": [
            {
                "module": name,
                "type": type(module).__name__,
                "output": [["B", *shape[1:]] if shape[:1] == [rows] else shape for shape in shapes.get(name, [])],
                "parameters": sum(parameter.numel() for parameter in module.parameters()),
                "flops_per_sample": flops.get(name, 0),
            }
            for name, module in model.named_modules()
            if name and name.count(".") < DEPTH
        ],
    }


def _tensors(output: Any) -> list[Tensor]:
    """Tensors in what a module returns, however it is wrapped."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in _tensors(value)]
    if isinstance(output, list | tuple):
        return [tensor for value in output for tensor in _tensors(value)]
    return [tensor for name in getattr(type(output), "__dataclass_fields__", {}) for tensor in _tensors(getattr(output, name))]


def text_of_model(tree: dict[str, Any]) -> str:
    """For a person."""
    rows = [
        [
            "  " * entry["module"].count(".") + entry["module"].rpartition(".")[2],
            entry["type"],
            " ".join("x".join(map(str, shape)) for shape in entry["output"]),
            entry["parameters"],
            _short(entry["flops_per_sample"]),
        ]
        for entry in tree["tree"]
    ]
    memory = tree["memory_bytes"]
    total = sum(value for name, value in memory.items() if name != "micro_batch")
    parts = ", ".join(f"{name} {_bytes(value)}" for name, value in memory.items() if name != "micro_batch")
    return "\n".join(
        [
            f"{tree['encoder']} -> {tree['decoder']} -> {tree['head']}, on {tree['data']}",
            "",
            table(rows, ["module", "type", "output", "parameters", "FLOPs"]),
            "",
            f"parameters  {tree['parameters']:,}, {tree['trained_parameters']:,} of them trained",
            f"FLOPs       {_short(tree['flops_per_sample'])} for one sample's forward pass: matrix products and convolutions, with additions",
            f"memory      about {_bytes(total)} to train with {memory['micro_batch']} samples at once: {parts}",
            "",
            "class counts and vocabularies may still grow with the data, which was not read",
        ]
    )


def _short(value: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}P"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"
