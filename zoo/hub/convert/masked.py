"""What the published encoders of texts besides BERT have in common: a model is an encoder, a masked language model or a classifier of texts.

A family says how its config and its names read; reading and writing are the same for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.codecs.masked import MaskedTokenCodec
from zoo.data.codecs.pair import PairCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.subword import SubwordTokenizer
from zoo.errors import CheckpointError
from zoo.hub.convert import bert
from zoo.hub.convert.base import Foreign, no_place, other_options
from zoo.hub.convert.names import Rule, read_all, write_all
from zoo.hub.convert.sentence_transformers import POOLINGS, SentencePooling, pooling_of, write_sentence_encoder
from zoo.hub.convert.snapshot import Snapshot, write_json
from zoo.hub.convert.tokenizer import tokenizer_of, write_tokenizer
from zoo.specs import Labelling

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

Node = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One published layout.

    Args:
        layout: as its paper calls it.
        prefix: of the encoder's tensors, where there is a head beside it.
        base: transformers' class of the encoder alone.
        masked: of the masked language model.
        classifier: of the classifier of texts; None where zoo's numbers would be others.
        node: config and name -> zoo's encoder.
        config: zoo's encoder -> what config.json says of it.
        rules: zoo's encoder -> names of its tensors, without the prefix.
        masked_rules: zoo's head -> names of the masked language model's.
        classifier_rules: names of the classifier's.
        head: config -> options of zoo's head for masked tokens.
        head_config: zoo's head for masked tokens -> what config.json says of it.
        table: name of the table of embeddings.
        scores: name of the same as scores.
        copies: names of what is the same again: the scores' matrix and bias.
        needed: options of zoo's encoder that the layout has no others of.
        activations: of zoo's that it has.
        positions: name of the table of positions; None where there is none.
        skipped: rows before the first of that table, which nothing reads.
        ignored: prefixes of tensors that are left out, and why.
    """

    layout: str
    prefix: str
    base: str
    masked: str
    classifier: str | None
    node: Callable[[Node, str], Node]
    config: Callable[[Node], Node]
    rules: Callable[[Node], list[Rule]]
    masked_rules: list[Rule]
    classifier_rules: list[Rule]
    head: Callable[[Node], Node]
    head_config: Callable[[Node], Node]
    table: str
    scores: str
    copies: tuple[str, ...]
    needed: Node
    activations: Sequence[str]
    positions: str | None = None
    skipped: int = 0
    ignored: dict[str, str] = field(default_factory=dict)


def read(family: Family, snapshot: Snapshot, pooling: SentencePooling) -> Foreign:
    """Raises:
    CheckpointError: for what else transformers makes of the family, and variants whose numbers would be others.
    """
    config, name = snapshot.config, snapshot.name
    told = config.get("architectures") or []
    known = [entry for entry in (family.base, family.masked, family.classifier) if entry is not None]
    if strange := [str(entry) for entry in told if entry not in known]:
        raise CheckpointError(
            f"{name}: config.json: architectures: {', '.join(strange)}, whose outputs zoo does not have; read as another one, its numbers would be wrong\n"
            f"  way out: a checkpoint of one of {', '.join(known)}"
        )
    tensors = {key.removeprefix(family.prefix): value for key, value in snapshot.tensors.items()}
    table = tensors.get(family.table)
    if table is None:
        raise CheckpointError(f"{name}: has no {family.prefix}{family.table}, the table of embeddings")
    encoder = family.node(config, name)
    if family.positions is not None and family.skipped:
        tensors[family.positions] = tensors[family.positions][family.skipped :]
        encoder["max_positions"] -= family.skipped
    tokenizer = bert.tokenizer_of(snapshot) if not (snapshot.folder / "tokenizer.json").is_file() else tokenizer_of(snapshot)
    if tokenizer.vocab_size > config["vocab_size"]:
        raise CheckpointError(f"{name}: its tokenizer has {tokenizer.vocab_size} entries, and its table of embeddings {config['vocab_size']} rows")
    encoder["extra_rows"] = config["vocab_size"] - tokenizer.vocab_size
    positions = int(config["max_position_embeddings"]) - family.skipped
    limit = snapshot.optional("sentence_bert_config.json").get("max_seq_length") or snapshot.optional("tokenizer_config.json").get("model_max_length")
    text = TextCodec(name="text", tokenizer=tokenizer, max_length=int(min(positions, limit)) if isinstance(limit, int | float) else positions)
    kind = family.base
    if any(rule.theirs[0] in tensors for rule in family.masked_rules):
        kind = family.masked
    elif family.classifier is not None and family.classifier_rules[0].theirs[0] in tensors:
        kind = family.classifier
    found = family.rules(encoder)
    target: Any = PairCodec(name="pair")
    head: Node
    if kind == family.masked:
        own = tensors.get(family.scores)
        tied = own is None or torch.equal(own, table)
        tensors = {key: value for key, value in tensors.items() if key not in family.copies}
        tensors = {key: value[: tokenizer.vocab_size] if key in _by_entry(family) else value for key, value in tensors.items()}
        if not tied:
            raise CheckpointError(f"{name}: {family.scores} is another matrix than the table of embeddings; the published ones share it, and zoo reads those")
        head = {"name": "masked_tokens", "output": "tied"} | family.head(config)
        target = MaskedTokenCodec(name="masked", text=text)
        found = [*found, *family.masked_rules]
    elif kind == family.classifier:
        encoder["pooler"] = "first"
        rows = tensors[family.classifier_rules[-1].theirs[0]].shape[0]
        target = bert.classes_of(config, rows, name)
        dropout = config.get("classifier_dropout")
        head = {"name": "classification", "dropout": encoder["dropout"] if dropout is None else float(dropout)}
        found = [*found, *family.classifier_rules]
    else:
        chosen = pooling_of(snapshot) if pooling is SentencePooling.CONFIG else pooling
        head = {"name": "embedding", "pooling": str(chosen)}
    state, report = read_all(found, tensors, unused=family.ignored, where=name)
    return Foreign(
        processor=Processor({"text": text}, {target.spec.name: target}),
        model={"encoder": encoder, "head": head},
        state={key: value.to(torch.float32) for key, value in state.items()},
        report=report,
    )


def write(family: Family, loaded: "LoadedBundle", folder: Path) -> None:
    """Raises:
    CheckpointError: for a model that the layout has no place for; says every difference.
    """
    from safetensors.torch import save_file

    model = loaded.bundle.config["model"]
    encoder, head = dict(model["encoder"]), dict(model["head"])
    names = [model[part]["name"] for part in ("encoder", "decoder", "head")]
    heads = ["masked_tokens", "embedding", *(["classification"] if family.classifier is not None else [])]
    if names[:2] != ["transformer", "none"] or names[2] not in heads:
        raise no_place(family.layout, [f"it is {' -> '.join(names)}, where transformer -> none -> {' or '.join(heads)} is needed"])
    wrong, overrides = other_options(encoder, family.needed)
    if encoder["activation"] not in family.activations:
        wrong.append(f"model.encoder.activation is {encoder['activation']}, where one of {', '.join(family.activations)} is needed")
        overrides.append(f"model.encoder.activation={family.activations[0]}")
    if names[2] == "masked_tokens":
        told, more = other_options(head, {"before": "dense", "output": "tied", "output_bias": "with"} | family.head(family.config(encoder)))
        wrong += [line.replace("model.encoder.", "model.head.") for line in told]
        overrides += [line.replace("model.encoder.", "model.head.") for line in more]
    if names[2] == "classification" and (encoder["pooler"] != "first" or head["pooling"] != "auto"):
        wrong.append(f"model.encoder.pooler is {encoder['pooler']} and model.head.pooling is {head['pooling']}, where first and auto are needed")
        overrides += ["model.encoder.pooler=first", "model.head.pooling=auto"]
    if names[2] == "embedding" and (head["dim"] or encoder["pooler"] != "none" or head["pooling"] not in ("auto", *POOLINGS)):
        wrong.append(f"it gives vectors in a way of zoo's own (pooler {encoder['pooler']}, pooling {head['pooling']}, dim {head['dim']})")
        overrides.append("model.head.pooling=mean")
    codec = loaded.processor.inputs[loaded.bundle.input.name]
    if not isinstance(codec, TextCodec) or not isinstance(codec.tokenizer, SubwordTokenizer):
        wrong.append("its input is no text of a tokenizer that transformers has")
    if wrong:
        raise no_place(family.layout, wrong, overrides)
    assert isinstance(codec, TextCodec)
    assert isinstance(codec.tokenizer, SubwordTokenizer)
    extra = {"masked_tokens": family.masked_rules, "classification": family.classifier_rules}.get(names[2], [])
    tensors = write_all([*family.rules(encoder), *extra], dict(loaded.model.state_dict()))
    rows = tensors[family.table].shape[0]
    tensors = {key: filled(value, rows) if key in _by_entry(family) else value for key, value in tensors.items()}
    if family.positions is not None and family.skipped:
        tensors[family.positions] = torch.cat([tensors[family.positions].new_zeros(family.skipped, encoder["dim"]), tensors[family.positions]])
    outside = {rule.theirs[0] for rule in extra}
    if extra:
        tensors = {key if key in outside else f"{family.prefix}{key}": value for key, value in tensors.items()}
    positions = len(tensors[key]) if (key := next((key for key in tensors if family.positions and key.endswith(family.positions)), None)) else codec.max_length
    kind = {"masked_tokens": family.masked, "classification": family.classifier}.get(names[2], family.base)
    config = {
        "architectures": [kind],
        "vocab_size": rows,
        "max_position_embeddings": positions,
        "pad_token_id": codec.tokenizer.pad_id,
        "bos_token_id": codec.tokenizer.begin_id,
        "eos_token_id": codec.tokenizer.end_id,
        "dtype": "float32",
    } | family.config(encoder)
    if names[2] == "masked_tokens":
        config |= family.head_config(head)
    if names[2] == "classification":
        spec: Any = next(iter(loaded.processor.targets.values())).spec
        config |= {
            "id2label": {str(place): label for place, label in enumerate(spec.labels)},
            "label2id": {label: place for place, label in enumerate(spec.labels)},
            "problem_type": bert.SINGLE if spec.labelling is Labelling.SINGLE else bert.MULTI,
            "classifier_dropout": head["dropout"],
        }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, codec.tokenizer, codec.max_length)
    if names[2] == "embedding":
        write_sentence_encoder(folder, "mean" if head["pooling"] == "auto" else head["pooling"], encoder["dim"], codec.max_length)


def _by_entry(family: Family) -> set[str]:
    """Foreign tensors of a masked language model that have a row for each entry."""
    return {rule.theirs[0] for rule in family.masked_rules if rule.ours[0] == "head.output.bias"}


def filled(values: Tensor, rows: int) -> Tensor:
    """Zeros for entries that the tokenizer has not."""
    return torch.cat([values, values.new_zeros(rows - values.shape[0], *values.shape[1:])]) if len(values) < rows else values
