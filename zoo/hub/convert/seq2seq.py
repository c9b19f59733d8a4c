"""What T5 and BART have in common: a text in, a text out, one vocabulary and one table of embeddings for both, and perhaps for the scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.codecs.text import TextCodec
from zoo.data.codecs.written import Start, WrittenCodec, WrittenTokenCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.subword import SubwordTokenizer
from zoo.errors import CheckpointError
from zoo.hub.convert.base import no_place, other_options
from zoo.hub.convert.snapshot import Snapshot, write_json
from zoo.hub.convert.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle

SHARED_TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def processor_of(snapshot: Snapshot, tokenizer: Any, max_length: int, start: Start) -> Processor:
    """A text to read and a text to write, with one vocabulary.

    Raises:
        CheckpointError: where that has more entries than the table of embeddings.
    """
    rows = snapshot.config["vocab_size"]
    if tokenizer.vocab_size > rows:
        raise CheckpointError(f"{snapshot.name}: its tokenizer has {tokenizer.vocab_size} entries, and its table of embeddings {rows} rows")
    written = WrittenCodec(name="written", tokenizer=tokenizer, max_length=max_length, start=start)
    text = TextCodec(name="text", tokenizer=tokenizer, max_length=max_length)
    return Processor({"text": text, "written": written}, {"next": WrittenTokenCodec(name="next", written=written)})


def one_table(tensors: Mapping[str, Tensor], prefix: str, name: str) -> tuple[dict[str, Tensor], bool]:
    """The tensors without the copies of the shared table, and whether the scores are by that table too.

    Args:
        tensors: by foreign name.
        prefix: of ``shared`` and of the copies.
        name: of the checkpoint.

    Raises:
        CheckpointError: where encoder and decoder have tables of their own, which the layout says to be one.
    """
    shared = tensors.get(f"{prefix}shared.weight")
    if shared is None:
        raise CheckpointError(f"{name}: has no {prefix}shared.weight, the table of embeddings")
    found = dict(tensors)
    for copy in (f"{prefix}{table}" for table in SHARED_TABLES):
        if (other := found.pop(copy, None)) is not None and not torch.equal(other, shared):
            raise CheckpointError(
                f"{name}: {copy} is another table than {prefix}shared.weight; zoo reads checkpoints with one for both, as all published ones have"
            )
    scores = found.get("lm_head.weight")
    tied = scores is None or torch.equal(scores, shared)
    if tied:
        found.pop("lm_head.weight", None)
    return found, tied


def parts_of(loaded: "LoadedBundle", layout: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Encoder, decoder and head of a model that writes.

    Raises:
        CheckpointError: for another one.
    """
    model = loaded.bundle.config["model"]
    encoder, decoder, head = dict(model["encoder"]), dict(model["decoder"]), dict(model["head"])
    if (encoder["name"], decoder["name"], head["name"]) != ("transformer", "transformer", "next_token"):
        told = f"it is {encoder['name']} -> {decoder['name']} -> {head['name']}, where transformer -> transformer -> next_token is needed"
        raise no_place(layout, [told])
    return encoder, decoder, head


def refuse_others(layout: str, encoder: Mapping[str, Any], decoder: Mapping[str, Any], both: Mapping[str, Any], reads: Mapping[str, Any]) -> None:
    """Raises:
    CheckpointError: for options that the layout has no place for; says every difference.

    Args:
        layout: as its paper calls it.
        encoder: zoo's node.
        decoder: zoo's node.
        both: options that encoder and decoder need.
        reads: options that the encoder needs besides.
    """
    wrong, overrides = other_options(encoder, {**both, **reads})
    told, more = other_options(decoder, {**both, "embedding": "tied"})
    for other in ("heads", "head_dim", "norm_eps", "activation", "relative_buckets", "relative_distance", "dropout"):
        if decoder[other] != encoder[other]:
            told.append(f"model.decoder.{other} is {decoder[other]}, where the encoder's {encoder[other]} is needed")
            more.append(f"model.decoder.{other}={encoder[other]}")
    wrong += [line.replace("model.encoder.", "model.decoder.") for line in told]
    overrides += [line.replace("model.encoder.", "model.decoder.") for line in more]
    if decoder["dim"] not in (0, encoder["dim"]):
        wrong.append(f"model.decoder.dim is {decoder['dim']}, where the encoder's {encoder['dim']} is needed")
        overrides.append("model.decoder.dim=0")
    if wrong:
        raise no_place(layout, wrong, overrides)


def codecs_of(loaded: "LoadedBundle", layout: str, start: Start) -> tuple[TextCodec, WrittenCodec]:
    """Raises:
    CheckpointError: where what is written has another vocabulary or beginning than the layout.
    """
    inputs = loaded.processor.inputs
    text, written = inputs[loaded.bundle.input.name], next((codec for codec in inputs.values() if isinstance(codec, WrittenCodec)), None)
    if not isinstance(text, TextCodec) or written is None or not isinstance(text.tokenizer, SubwordTokenizer):
        raise no_place(layout, ["its input is no text of a tokenizer that transformers has"])
    if written.start is not start and not (written.start is Start.AUTO and written.opening() == [written.tokenizer.pad_id] and start is Start.PAD):
        raise no_place(layout, [f"data.target_start is {written.start}, where {start} is needed"], [f"data.target_start={start}"])
    if not isinstance(written.tokenizer, SubwordTokenizer) or written.tokenizer.library.to_str() != text.tokenizer.library.to_str():
        raise no_place(layout, ["what is written has another tokenizer than what is read"], ["data.target_tokenizer=null"])
    return text, written


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], tokenizer: SubwordTokenizer, max_length: int) -> None:
    """As transformers writes a checkpoint."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, tokenizer, max_length)
