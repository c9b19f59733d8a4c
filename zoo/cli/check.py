"""``zoo check``: does a composition work? No data is read, nothing is written."""

from collections.abc import Sequence

from zoo.cli.output import DONE, only_json, say, say_json
from zoo.cli.train import parse

HELP = """usage: zoo check [overrides] [--json]

Composes a run as `zoo train` would, checks every key, builds the model on the meta device, sends a fake batch through it and its loss,
and reads no data. Exit code 0: `zoo train` with the same overrides starts.

  zoo check data=fashion_mnist model/encoder=vit_tiny model.encoder.patch_size=7"""


def run(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        say(HELP)
        return DONE
    options = parse(arguments)
    with only_json(options.json):
        from zoo.compose import compose

        config = compose(options.overrides, config_name=options.config_name, config_dir=options.config_dir)
        from zoo.checks import check

        report = check(config)
    tree = {
        "hash": config.hash(),
        "data": config.data["name"],
        "inputs": [f"{entry.name}: {entry.kind}" for entry in report.spec.inputs],
        "targets": [f"{entry.name}: {entry.kind}" for entry in report.spec.targets],
        "encoder": config.encoder["name"],
        "decoder": config.decoder["name"],
        "head": config.head["name"],
        "parameters": report.model.num_parameters(),
        "prediction": {name: list(shape) for name, shape in report.prediction.items()},
        "losses": list(report.losses),
        "metrics": list(report.metrics),
    }
    if options.json:
        say_json(tree)
        return DONE
    say(f"fits: {tree['encoder']} -> {tree['decoder']} -> {tree['head']} on {tree['data']}, {tree['parameters']:,} parameters")
    say(f"  data     {', '.join(tree['inputs'])}; {', '.join(tree['targets'])}")
    say(f"  gives    {', '.join(f'{name} {shape}' for name, shape in tree['prediction'].items())}")
    say(f"  measures {', '.join(tree['metrics'])}")
    say("  no data was read; `zoo show` with the same overrides prints the model, `zoo train` trains it")
    return DONE
