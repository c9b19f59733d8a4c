"""``zoo eval``: measure a finished model on a split of its data."""

from collections.abc import Sequence

from zoo.cli.output import DONE, only_json, say, say_json
from zoo.cli.parser import CommandParser

HELP = """usage: zoo eval RUN_OR_BUNDLE [--split test] [--device auto] [data.key=value] ...

Measures a model on a split of the data it was trained on: the same figures as at the end of training.

  zoo eval runs/digits/20260101-120000
  zoo eval BUNDLE --split validation
  zoo eval BUNDLE data.root=/other/folder data.eval_batch_size=256     the same kind of data in another place
  zoo eval PRETRAINED data=image_folder data.root=FOLDER     weights that zoo did not train, on data with their inputs and labels

options
  --split NAME     train, validation or test
  --device D       auto, cpu, cuda ...; the run's own if not given
  --json --import X --debug as for every command; keys: run, bundle, split, metrics, tables, seconds, parameters"""


def run(arguments: Sequence[str]) -> int:
    parser = CommandParser("eval", "zoo eval RUN_OR_BUNDLE [--split test] [data.key=value]")
    parser.add_argument("--split", default="test")
    parser.add_argument("--device")
    parser.add_argument("words", nargs="*")
    options = parser.options_of(arguments, HELP, ("words", "which run or bundle?"))
    if options is None:
        return DONE
    from zoo.hub.bundle import open_bundle
    from zoo.hub.resolve import resolve

    path = resolve(options.words[0])
    bundle = open_bundle(path)  # what is wrong with it is told before torch is imported
    with only_json(options.json):
        from zoo.inference.evaluate import evaluate_bundle

        measured = evaluate_bundle(path, split=options.split, overrides=options.words[1:], device=options.device)
    metrics, model = measured.evaluation.figures, measured.loaded.model
    if options.json:
        result = {
            "run": str(bundle.path.parent) if bundle.path != path else None,
            "bundle": str(bundle.path),
            "split": options.split,
            "metrics": metrics,
            "tables": measured.evaluation.tables,
            "seconds": round(measured.seconds, 3),
            "parameters": model.num_parameters(),
        }
        say_json(result)
        return DONE
    from zoo.training.report import figure, plain_table

    rows = [(name, figure(value), figure(bundle.metrics.get(name))) for name, value in metrics.items()]
    say("\n".join(plain_table(("metric", "now", "after training"), rows)))
    if protocol := getattr(model.head, "protocol", ""):
        say(f"\n{protocol}")
    return DONE
