"""Model cards with the front matter of the Hugging Face Hub (https://huggingface.co/docs/hub/model-cards)."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.hub.bundle import inputs_of
from zoo.hub.files import to_yaml
from zoo.hub.lineage import Base, hub_base, licence_notes, lineage_of
from zoo.inference.inputs import example
from zoo.specs import (
    AnswerTarget,
    ClassTarget,
    ContextTarget,
    DataSpec,
    DialogueInput,
    ImageInput,
    InputSpec,
    ItemTarget,
    Labelling,
    MaskedTarget,
    NumberTarget,
    PairInput,
    PairTarget,
    SpectrogramInput,
    TableInput,
    TagTarget,
    TargetSpec,
    TaughtTarget,
    TextInput,
    TokenTarget,
)

TASKS: dict[tuple[type[InputSpec], type[TargetSpec]], str] = {
    (ImageInput, ClassTarget): "image-classification",
    (ImageInput, TaughtTarget): "image-classification",
    (TextInput, ClassTarget): "text-classification",
    (TextInput, TaughtTarget): "text-classification",
    (PairInput, ClassTarget): "text-classification",
    (PairInput, AnswerTarget): "question-answering",
    (TextInput, TagTarget): "token-classification",
    (TextInput, MaskedTarget): "fill-mask",
    (TextInput, PairTarget): "sentence-similarity",
    (SpectrogramInput, ClassTarget): "audio-classification",
    (TextInput, TokenTarget): "text-generation",
    (DialogueInput, TokenTarget): "text-generation",
    (TextInput, ContextTarget): "feature-extraction",
    (TableInput, ClassTarget): "tabular-classification",
    (TableInput, NumberTarget): "tabular-regression",
}
"""The Hub's names of tasks; what is not here has no pipeline there."""

SHOWN_LABELS = 30


def task(spec: DataSpec) -> str | None:
    """The Hub's name for what a model of this data does."""
    for given in spec.inputs:
        for target in spec.targets:
            if (found := TASKS.get((type(given), type(target)))) is not None:
                return found
    return None


def model_card(
    config: Mapping[str, Any],
    spec: DataSpec,
    figures: Mapping[str, Any],
    notes: Mapping[str, str],
    *,
    bases: Sequence[Base] = (),
    use: str | None = None,
    licence: str | None = None,
) -> str:
    """README.md of a bundle.

    Args:
        config: the run's config tree.
        spec: of the data.
        figures: ``metrics``, ``protocol``, ``parameters``.
        notes: facts about the data, by name (``license``, ``source``, ``split``, ``command`` ...).
        bases: what its weights started from, nearest first.
        use: what the model is for, in place of what its data tells.
        licence: SPDX identifier of the weights.
    """
    name, data = str(config["name"]), data_name(config["data"])
    parts = config["model"]
    inputs = inputs_of(parts, spec.inputs)
    kind = task(replace(spec, inputs=inputs)) if len(inputs) == 1 else None
    front = _front_matter(name, data, kind, figures["metrics"], hub_base(bases), licence)
    stages = [parts["encoder"]["name"], *([parts["decoder"]["name"]] if parts["decoder"]["name"] != "none" else []), parts["head"]["name"]]
    lines = [
        f"---\n{to_yaml(front)}---",
        f"# {name}",
        f"`{' -> '.join(stages)}`, {figures['parameters']:,} parameters, trained on `{data}` with zoo.",
        "## Use",
        _usage(inputs),
        "## Intended use",
        _intended_use(inputs, spec.targets, kind, data, measured=bool(figures["metrics"]), use=use),
        "## Results",
        _results(figures),
        "## Inputs and answers",
        "\n".join(f"- {line}" for line in [*map(_describe_input, spec.inputs), *map(_describe_target, spec.targets)]),
        "## Data",
        "\n".join(f"- **{key}**: {value}" for key, value in notes.items() if key != "command") or "The data set states no facts about itself.",
        "## Origin and licence of the weights",
        _origin(bases, licence),
        "## Training",
        _training(config, notes),
        "## Limits",
        "The figures hold for data like that of the test split; nothing is known about other data. Probabilities are the model's own, not calibrated.",
    ]
    return "\n\n".join(lines) + "\n"


def data_name(node: Mapping[str, Any]) -> str:
    """What the data is called: a table by its file."""
    path = node.get("path")
    return Path(path).stem if isinstance(path, str) and Path(path).stem else str(node["name"])


def write_card(runs: Sequence[Path], *, use: str | None = None, limits: str | None = None, licence: str | None = None) -> Path:
    """The card of the first run's bundle, anew, with what is on record of the run; its pictures are copied beside it.

    Args:
        runs: directories; more than one differ in their seeds only.
        use: what the model is for; None tells what follows from its data.
        limits: where it is known to fail.
        licence: of the weights, by its name on the Hub.

    Raises:
        CheckpointError: for what is no run, or one that has not come to its end.
        ZooError: for runs of different models, or a licence that the Hub does not know.
    """
    from zoo.data.agreement import kept_facts
    from zoo.files import write_whole
    from zoo.hub.bundle import CARD, METRICS
    from zoo.hub.evidence import read_evidence, same_but_for_the_seed, sections
    from zoo.hub.files import read_plain_json
    from zoo.hub.licences import check_licence

    if licence is not None:
        check_licence(licence)
    found = [read_evidence(run) for run in runs]
    same_but_for_the_seed(found)
    first = found[0]
    notes = kept_facts(first.run / "processor")["notes"] | {"command": ""}  # told with its commit
    figures = read_plain_json(first.bundle.path / METRICS)
    card = model_card(first.bundle.config, first.bundle.spec, figures, notes, bases=lineage_of(first.run), use=use, licence=licence)
    if first.plots:
        (first.bundle.path / "plots").mkdir(exist_ok=True)
        for plot in first.plots:
            shutil.copyfile(plot, first.bundle.path / "plots" / plot.name)
    file = first.bundle.path / CARD
    write_whole(file, f"{card}\n{sections(found, limits=limits)}")
    return file


def converted_card(config: Mapping[str, Any], spec: DataSpec, figures: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """README.md of a bundle whose weights another library trained.

    Args:
        config: ``name`` and ``model``.
        spec: of what the model takes and answers with.
        figures: ``parameters``.
        notes: ``source`` of the files.
    """
    name, parts = str(config["name"]), config["model"]
    inputs = inputs_of(parts, spec.inputs)
    kind = task(replace(spec, inputs=inputs)) if len(inputs) == 1 else None
    front = {"library_name": "zoo", **({"pipeline_tag": kind} if kind else {}), "tags": ["zoo", "pytorch", "converted", *([kind] if kind else [])]}
    stages = [parts["encoder"]["name"], *([parts["decoder"]["name"]] if parts["decoder"]["name"] != "none" else []), parts["head"]["name"]]
    lines = [
        f"---\n{to_yaml(front)}---",
        f"# {name}",
        f"`{' -> '.join(stages)}`, {figures['parameters']:,} parameters: the tensors of {notes['source']} as zoo's, which give the same numbers. "
        "`conversion.json` says what became of each.",
        "## Use",
        _usage(inputs),
        "## Inputs and answers",
        "\n".join(f"- {line}" for line in [*map(_describe_input, spec.inputs), *map(_describe_target, spec.targets)]),
        "## Licence, data and limits",
        "Those of the original, at its source.",
    ]
    return "\n\n".join(lines) + "\n"


def _front_matter(name: str, data: str, kind: str | None, metrics: Mapping[str, float], base: str | list[str] | None, licence: str | None) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "zoo"}
    if kind:
        front["pipeline_tag"] = kind
    front["tags"] = ["zoo", "pytorch", *([kind] if kind else [])]
    front["datasets"] = [data]
    if base:
        front |= {"base_model": base, "base_model_relation": "finetune"}
    if licence:
        front["license"] = licence.lower()  # the Hub's names of licences are those of SPDX in small letters
    results = []
    for split in ("test", "validation"):
        figures = [{"type": key.split("/", 1)[1], "value": value, "name": key} for key, value in sorted(metrics.items()) if key.startswith(f"{split}/")]
        if figures:
            results.append({"task": {"type": kind or "other"}, "dataset": {"type": data, "name": data, "split": split}, "metrics": figures})
    front["model-index"] = [{"name": name, "results": results}]
    return front


def _usage(inputs: Sequence[InputSpec]) -> str:
    shown, command = {
        "image": ('["picture.png"]', "picture.png"),
        "text": ('["some text"]', '--text "some text"'),
        "spectrogram": ('["sound.wav"]', "sound.wav"),
        "table": ('[{"column": 1.0}]', "rows.csv"),
        "history": ('["user id"]', "--user ID"),
    }.get(inputs[0].kind, ("[...]", "FILE"))
    if len(inputs) > 1:
        shown, command = f"[{ ({spec.name: '...' for spec in inputs}) }]", example(inputs)
    return (
        f'```bash\nzoo predict PATH_TO_THIS_FOLDER {command}\n```\n\n```python\nimport zoo\n\nanswers = zoo.load("PATH_TO_THIS_FOLDER").predict({shown})\n```'
    )


def _intended_use(inputs: Sequence[InputSpec], targets: Sequence[TargetSpec], kind: str | None, data: str, *, measured: bool, use: str | None) -> str:
    """What its user says, or what follows from the data; and how far that was looked at."""
    given = " and ".join(f"{_a(spec.kind)} {spec.kind}" for spec in inputs)
    told = use or f"{(kind or 'prediction').replace('-', ' ').capitalize()}: {given} in, {' and '.join(map(_answer, targets))} out, on data like `{data}`."
    if not measured:
        return f"{told} Nothing was evaluated."
    texts = f" The language of its texts is not on record, and texts in other languages than those of `{data}` were not tried." if _reads(inputs) else ""
    return f"{told} Nothing else than `{data}` was evaluated: no other data, task or use.{texts}"


def _reads(inputs: Sequence[InputSpec]) -> bool:
    return any(isinstance(spec, TextInput) for spec in inputs)


def _a(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _answer(target: TargetSpec) -> str:
    match target:
        case ClassTarget():
            count = f"{target.num_classes} classes (`{'`, `'.join(target.labels[:SHOWN_LABELS])}`{', ...' if target.num_classes > SHOWN_LABELS else ''})"
            return f"one of {count}" if target.labelling is Labelling.SINGLE else f"any of {count}"
        case NumberTarget():
            return f"the number{'s' if len(target.columns) > 1 else ''} {', '.join(f'`{column}`' for column in target.columns)}"
        case ItemTarget():
            return f"a ranked list out of {target.num_items:,} items"
        case TokenTarget():
            return "a continuation, token by token,"
        case PairTarget():
            return "vectors to be compared by their cosine"
        case ContextTarget():
            return "a vector, near those of words that stand among the same others"
    return f"{_a(target.kind)} {target.kind}"


def _origin(bases: Sequence[Base], licence: str | None) -> str:
    chain = ", which started from ".join(map(str, bases))
    told = [f"The training started from {chain}." if bases else "By its config, the training started from random values, and from no other weights."]
    told.append(f"Licence of these weights: {licence}." if licence else "Licence of these weights: not stated.")
    return " ".join([*told, *licence_notes(bases, licence)])


def _results(figures: Mapping[str, Any]) -> str:
    if not figures["metrics"]:
        return "None were taken."
    rows = "\n".join(
        f"| {name} | {value:.6g} |" for name, value in sorted(figures["metrics"].items(), key=lambda entry: (not entry[0].startswith("test/"), entry[0]))
    )
    protocol = f"\n\nHow they are computed: {figures['protocol']}" if figures["protocol"] else ""
    return f"| metric | value |\n|---|---|\n{rows}{protocol}"


def _describe_input(given: InputSpec) -> str:
    return f"{_described(given)}{'; a sample may lack it' if given.optional else ''}"


def _described(given: InputSpec) -> str:
    match given:
        case ImageInput():
            return f"`{given.name}`: an image, brought to {given.height} x {given.width} pixels, {'grey' if given.channels == 1 else 'RGB'}"
        case TextInput():
            return f"`{given.name}`: a text, the first {given.max_length} tokens of a vocabulary of {given.vocab_size:,}"
        case SpectrogramInput():
            return f"`{given.name}`: a sound, at most {given.max_frames / given.frame_rate:.1f} s of it, as {given.n_mels} mel bands"
        case TableInput():
            return f"`{given.name}`: a row of a table with {given.numbers} numbers and {len(given.categories)} categories"
    return f"`{given.name}`: {given.kind}"


def _describe_target(target: TargetSpec) -> str:
    match target:
        case ClassTarget():
            shown = ", ".join(f"`{label}`" for label in target.labels[:SHOWN_LABELS])
            more = f" and {target.num_classes - SHOWN_LABELS} more" if target.num_classes > SHOWN_LABELS else ""
            return f"`{target.name}`: {target.labelling} label of {target.num_classes} classes: {shown}{more}"
        case NumberTarget():
            return f"`{target.name}`: numbers: {', '.join(f'`{column}`' for column in target.columns)}"
        case ItemTarget():
            return f"`{target.name}`: a ranked list out of {target.num_items:,} items"
        case TokenTarget():
            return f"`{target.name}`: what follows, token by token, out of {target.vocab_size:,}"
        case PairTarget():
            return f"`{target.name}`: no label; how well the inputs of a row go together, as the cosine of their vectors"
        case ContextTarget():
            return f"`{target.name}`: no label; the words around each word, out of {target.vocab_size:,}"
    return f"`{target.name}`: {target.kind}"


def _training(config: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    limits = ", ".join(f"{key} {config['trainer'][key]}" for key in ("max_epochs", "max_steps") if config["trainer"][key] is not None)
    optimizer = config["optimizer"]
    rate = f", learning rate {optimizer['lr']}" if "lr" in optimizer else ""
    facts = f"{limits}; batch size {config['data']['batch_size']}; optimizer {optimizer['name']}{rate}; seed {config['seed']}."
    again = notes.get("command", "zoo train rerun=RUN")
    return f"{facts} `config.yaml` holds every option." + (f"\n\n```bash\n{again}   # does it again\n```" if again else "")
