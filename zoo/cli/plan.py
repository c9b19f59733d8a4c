"""``zoo plan``: memory, traffic and time of a run on devices that need not be there."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.cli.output import DONE, only_json, say, say_json, table
from zoo.cli.parser import OVERRIDES, CommandParser
from zoo.errors import ConfigError

if TYPE_CHECKING:
    from zoo.checks import Report
    from zoo.plan.planner import Choices, Plan
    from zoo.plan.workload import Workload

HELP = """usage: zoo plan [overrides] [options] [--json]

What a step of `zoo train` with these overrides would need and take, on devices that need not be there: memory of each device, bytes on
the links, seconds, samples and tokens a second, MFU. Nothing is read, trained or written. Activations are measured: the step runs on fake
tensors, through autograd, checkpointing and the optimizer.

  zoo plan model/encoder=vit_tiny data=fashion_mnist                       this machine's CPU, measured for a second
  zoo plan experiment=tweet_sentiment --device h100 --world 8 --strategy fsdp --precision bf16 --compile
  zoo plan ... --device a100 --world 64 --strategy hsdp --replicate 8 --tp 2 --checkpoint selective --batch 512
  zoo plan ... --device h100 --world 64 --target samples_per_second=20000  the cheapest layout that reaches it

options; what is not given comes from the config, or is searched for where there is a --target
  --device NAME         h100, h100_500w (limited to 500 W, 96 GB), h200, a100, or cpu (default)
  --world N             devices; with --target the most that may be used (parallel.processes)
  --strategy NAME       ddp, fsdp (parameters, gradients and optimizer sharded), hsdp (sharded within groups, replicated over them) (parallel.strategy)
  --replicate N         groups of hsdp (parallel.replicas)
  --tp N                tensor-parallel degree, with the sequence sharded between (parallel.tensor)
  --precision NAME      fp32, bf16 or float8 (products of the blocks; needs --compile) (trainer.precision)
  --compile             torch.compile (trainer.compile)
  --checkpoint NAME     none, selective (keeps attention and every second matrix product), full (keeps a block's input) (trainer.recompute)
  --checkpoint-every N  only the first of each N blocks (trainer.recompute_every)
  --batch N             samples of an optimizer step, over all devices (data.batch_size)
  --accumulate N        micro-batches of a device's share (trainer.accumulate)
  --sequence N          positions of a text or frames of a sound (the data's maximum)
  --target GOAL=NUMBER  tokens_per_second or samples_per_second, of all devices together
  --sources             where every figure and constant comes from

Exit code 2 where it does not fit or the target is out of reach; the message says by how much, and what would do."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser("plan", OVERRIDES)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--sources", action="store_true")
    parser.add_argument("--config-name", "-cn", default="train")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--strategy", choices=["ddp", "fsdp", "hsdp"])
    parser.add_argument("--precision", choices=["fp32", "bf16", "float8"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint", choices=["none", "selective", "full"])
    parser.add_argument("--target")
    for name in ("world", "replicate", "tp", "checkpoint-every", "batch", "accumulate", "sequence"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_intermixed_args(list(arguments))
    for name in ("world", "replicate", "tp", "checkpoint_every", "batch", "accumulate", "sequence"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}", f"{value} is too small", "1 or more")
    return options


def run(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.help:
        say(HELP)
        return DONE
    if options.target:
        from zoo.plan.search import parse_target

        parse_target(options.target)  # before anything is built
    with only_json(options.json):
        from zoo.compose import compose

        config = compose(options.overrides, config_name=options.config_name, config_dir=options.config_dir)
        from zoo.checks import check

        made = make(check(config), options)
        from zoo.plan.planner import to_dict
        from zoo.plan.search import does_not_fit

        if not made.fits:
            raise does_not_fit(made)
        tree = to_dict(made) | {"sources": sources(made)}
    if options.json:
        say_json(tree)
    else:
        say(text_of(tree, made, options.sources))
    return DONE


def make(report: "Report", options: argparse.Namespace) -> "Plan":
    """The plan that was asked for, or the cheapest one that reaches the target."""
    from zoo.plan.devices import find_device
    from zoo.plan.layout import Strategy
    from zoo.plan.planner import plan
    from zoo.plan.search import Space, cheapest, parse_target

    device = find_device(options.device)
    workload, choices = workload_of(report, options.sequence), choices_of(report, options)
    if not options.target:
        return plan(workload, device, choices)
    space = Space(
        world=choices.layout.world,
        strategy=Strategy(options.strategy) if options.strategy else None,
        tensor=options.tp,
        checkpointing=choices.checkpointing if options.checkpoint else None,
        accumulate=options.accumulate,
    )
    return cheapest(workload, device, choices, space, parse_target(options.target))


def choices_of(report: "Report", options: argparse.Namespace) -> "Choices":
    """Options, and the config's where none are given."""
    from zoo.parallel.recompute import check_recompute
    from zoo.plan.layout import Layout, Strategy
    from zoo.plan.planner import Choices
    from zoo.settings import Recompute

    kept = Recompute(options.checkpoint or report.config.trainer.recompute)
    check_recompute(report.model, kept, "--checkpoint")
    config = report.config
    precision = options.precision or str(config.trainer.precision)
    parallel = config.parallel
    unknown = {
        "parallel.offload": (parallel.offload, "leave parallel.offload out"),
        "parallel.reshard": (not parallel.reshard, "leave parallel.reshard out"),
        "parallel.sequence": (options.tp is None and parallel.tensor > 1 and not parallel.sequence, "parallel.sequence=true, which is what --tp means"),
        "trainer.precision": (precision == "fp16", "--precision bf16: the same bytes"),
        "--replicate": (bool(options.target and options.replicate), "leave it out: --target tries every number of groups"),
    }
    for path, (asked, way) in unknown.items():
        if asked:
            raise ConfigError(path, "zoo plan does not know this yet, and would plan another run than the one that you ask for", way)
    replicate = options.replicate or (parallel.replicas if parallel.replicas > 1 else None)
    strategy = Strategy(options.strategy or ("hsdp" if replicate else str(parallel.strategy)))
    layout = Layout(
        strategy=strategy,
        world=options.world or parallel.processes,
        tensor=options.tp or parallel.tensor,
        replicate=(replicate or 2) if strategy is Strategy.HSDP else 1,
    )
    return Choices(
        layout=layout,
        batch=options.batch or config.loader.batch_size,
        accumulate=options.accumulate or config.trainer.accumulate,
        bf16=precision != "fp32",
        float8=precision == "float8",
        compiled=options.compile or config.trainer.compile,
        checkpointing=kept,
        every=options.checkpoint_every or config.trainer.recompute_every,
    )


def workload_of(report: "Report", sequence: int | None) -> "Workload":
    """A composed model, with samples as long as the data allows."""
    from zoo.build import build_optimizer
    from zoo.data.fake import fake_batch, longest
    from zoo.plan.workload import of_model, positions_of

    config = report.config
    limits = [limit for entry in report.spec.inputs if (limit := longest(entry))]
    if sequence is not None and (not limits or sequence > max(limits)):
        ways = [f"--sequence {max(limits)} or less", "a longer maximum in the data's options"] if limits else ["leave it out"]
        raise ConfigError("--sequence", f"{sequence}: the data gives {f'at most {max(limits)} positions' if limits else 'no sequences'}", *ways)
    length = min(sequence or max(limits, default=1), *limits) if limits else 1
    batch = fake_batch(report.spec, 2, device="meta", lengths=[length] * 2)
    name = f"{config.encoder['name']} -> {config.decoder['name']} -> {config.head['name']}"
    positions = positions_of(batch) if limits else None
    return of_model(name, report.model, batch, lambda model: build_optimizer(config, model), positions, ema=config.trainer.ema is not None)


def sources(made: "Plan") -> dict[str, str]:
    from zoo.plan.time import CONSTANTS, SOURCES

    constants = {f"{name}={getattr(CONSTANTS, name):g}": source for name, source in SOURCES.items()}
    return {f"{made.device.name}: {name}": source for name, source in made.device.sources.items()} | constants


def size_of(size: float) -> str:
    """Three digits in the unit that suits."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB" if size >= 10 else f"{size:.2f} GiB"


def text_of(tree: dict[str, Any], made: "Plan", with_sources: bool) -> str:
    """For a person."""
    from zoo.plan.search import describe, flags

    memory, total = tree["memory_bytes"], tree["memory_bytes"]["total"]
    lines = [
        f"{tree['model']}, {tree['parameters']:,} parameters, on {tree['device']}",
        f"{describe(made.choices)}, {tree['micro_batch']} at once, {tree['precision']}{', compiled' if tree['compile'] else ''}",
        "",
        f"memory of a device  {size_of(total)} of {size_of(tree['memory_usable_bytes'])} usable",
        table([[f"  {name}", size_of(size), f"{100 * size / total:.0f} %"] for name, size in memory.items() if size and name != "total"]),
        "",
    ]
    if compared := tree["comparison"]:
        twice = "; each micro-batch runs forward twice" if compared["forward_passes"] > 1 else ""
        lines += [f"of it for the loss, which compares all {compared['rows']:,} rows on every device: {size_of(compared['peak_bytes'])} at most{twice}", ""]
    if tree["communication_bytes"]:
        rows = [
            [f"  {entry['collective']} of {entry['of']}", entry["between"], entry["devices"], entry["when"], entry["calls"], size_of(entry["bytes"])]
            for entry in tree["communication_bytes"]
        ]
        lines += ["sent by a device in a step", table(rows, ["  collective", "between", "devices", "when", "calls", "bytes"]), ""]
    tokens, world = tree["tokens_per_second"], made.choices.layout.world
    parts = {name: seconds for name, seconds in tree["seconds_by_part"].items() if seconds > 0}
    lines += [
        f"step  {tree['seconds'] * 1e3:,.2f} ms",
        table([[f"  {name}", f"{seconds * 1e3:,.3f} ms", f"{100 * seconds / tree['seconds']:.0f} %"] for name, seconds in parts.items()]),
        "",
        f"rate  {tree['samples_per_second']:,.1f} samples a second" + (f", {tokens:,.0f} tokens ({tokens / world:,.0f} a device)" if tokens else ""),
        f"MFU   {100 * tree['mfu']:.1f} %, {tree['flops_per_sample'] / 1e9:,.3f} GFLOP a sample, forward and backward",
        "",
        f"the same again: zoo plan [overrides] --device {tree['device']} {flags(made.choices)}",
        "these are predictions: `zoo plan --help` says how, --sources from which figures",
    ]
    if with_sources:
        lines += ["", "sources", *(f"  {name}: {source}" for name, source in tree["sources"].items())]
    return "\n".join(lines)
