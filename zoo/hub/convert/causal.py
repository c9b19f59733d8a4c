"""What causal language models have in common: a text in, the scores of the next token out."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.codecs.text import TextCodec
from zoo.data.codecs.token import NextTokenCodec
from zoo.data.processor import Processor
from zoo.data.tokenizers.subword import SubwordTokenizer
from zoo.errors import CheckpointError
from zoo.hub.convert.base import no_place
from zoo.hub.convert.snapshot import Snapshot, write_json
from zoo.hub.convert.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from zoo.hub.bundle import LoadedBundle


def processor_of(snapshot: Snapshot, tokenizer: Any, max_length: int) -> Processor:
    """A text, and the token after each of its places.

    Raises:
        CheckpointError: where the tokenizer has more entries than the table of embeddings.
    """
    rows = snapshot.config["vocab_size"]
    if tokenizer.vocab_size > rows:
        raise CheckpointError(f"{snapshot.name}: its tokenizer has {tokenizer.vocab_size} entries, and its table of embeddings {rows} rows")
    text = TextCodec(name="text", tokenizer=tokenizer, max_length=max_length)
    return Processor({"text": text}, {"next": NextTokenCodec(name="next", text=text)})


def tied(tensors: Mapping[str, Tensor], table: str, config: Mapping[str, Any], *, default: bool) -> bool:
    """Whether the scores are by the table of embeddings.

    Args:
        tensors: by foreign name.
        table: the name of the embeddings.
        config: of the checkpoint.
        default: where that does not say.
    """
    scores = tensors.get("lm_head.weight")
    if scores is None:
        return True
    return bool(config.get("tie_word_embeddings", default)) and torch.equal(scores, tensors[table])


def parts_of(loaded: "LoadedBundle", layout: str) -> tuple[dict[str, Any], dict[str, Any], TextCodec]:
    """Encoder and head of a causal language model, and the codec of its text.

    Raises:
        CheckpointError: for another one.
    """
    model = loaded.bundle.config["model"]
    names = [model[part]["name"] for part in ("encoder", "decoder", "head")]
    if names != ["transformer", "none", "next_token"]:
        raise no_place(layout, [f"it is {' -> '.join(names)}, where transformer -> none -> next_token is needed"])
    head = dict(model["head"])
    if wrong := [f"model.head.{key} is {head[key]}, where none is needed" for key in ("output_scale", "output_bias") if head[key] != "none"]:
        raise no_place(layout, wrong, ["model.head.output_scale=none", "model.head.output_bias=none"])
    codec = loaded.processor.inputs[loaded.bundle.input.name]
    if not isinstance(codec, TextCodec) or not isinstance(codec.tokenizer, SubwordTokenizer):
        raise no_place(layout, ["its input is no text of a tokenizer that transformers has"], ["data/tokenizer=bpe"])
    return dict(model["encoder"]), head, codec


def special_ids(tokenizer: SubwordTokenizer) -> dict[str, Any]:
    """For a config.json."""
    return {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.begin_id, "eos_token_id": tokenizer.end_id}


def filled(tensors: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Zeros for the scores of entries that the tokenizer has not."""
    scores = tensors.get("lm_head.weight")
    if scores is None or scores.shape[0] == rows:
        return tensors
    return tensors | {"lm_head.weight": torch.cat([scores, scores.new_zeros(rows - scores.shape[0], scores.shape[1])])}


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], codec: TextCodec) -> None:
    """As transformers writes a checkpoint; its tokenizer does not close texts there."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert isinstance(codec.tokenizer, SubwordTokenizer)
    write_tokenizer(folder, codec.tokenizer, codec.max_length, whole=False)
