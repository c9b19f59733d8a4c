"""Tokenizers that come with foreign checkpoints: a tokenizer.json of any kind that zoo has, closed where texts have to end."""

import json
from pathlib import Path
from typing import Any

from zoo.data.tokenizers.subword import SubwordTokenizer
from zoo.errors import CheckpointError
from zoo.hub.convert.snapshot import Snapshot, write_json
from zoo.registry import TOKENIZERS

KINDS = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}


def tokenizer_of(snapshot: Snapshot, closing: str | None = None) -> Any:
    """The one in tokenizer.json, by its model's kind.

    Args:
        snapshot: of the checkpoint.
        closing: the token that texts are to end with, where the tokenizer does not close them by itself.

    Raises:
        CheckpointError: where there is none, or it closes no text.
    """
    file = snapshot.folder / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(f"{snapshot.name}: has no tokenizer.json\n  way out: save its tokenizer with transformers' fast tokenizers, which write one")
    try:
        kind = json.loads(file.read_text(encoding="utf-8"))["model"]["type"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{snapshot.name}: tokenizer.json: model.type cannot be read: {error}") from error
    if kind not in KINDS:
        raise CheckpointError(f"{snapshot.name}: tokenizer.json: model.type is {kind!r}, where one of {', '.join(KINDS)} is needed")
    if KINDS[kind] not in TOKENIZERS.names():
        raise CheckpointError(f"{snapshot.name}: tokenizer.json: model.type is {kind!r}, which zoo has no tokenizer of")
    found: Any = TOKENIZERS.load(KINDS[kind]).load(snapshot.folder)  # type: ignore[attr-defined]
    if found.end_id is None and closing is not None:
        if found.library.token_to_id(closing) is None:
            raise CheckpointError(f"{snapshot.name}: texts are to end with {closing!r}, which its tokenizer does not have")
        found.close_with(closing)
    if found.end_id is None:
        raise CheckpointError(f"{snapshot.name}: its tokenizer closes no text, so that what is written would never end")
    return found


def opened(tokenizer: SubwordTokenizer) -> str:
    """Its tokenizer.json as it was before ``close_with``; as it is, where it closes texts by itself."""
    tree = json.loads(tokenizer.library.to_str())
    processor = tree["post_processor"]
    steps = processor["processors"] if processor is not None and processor["type"] == "Sequence" else [processor]
    closing = tokenizer.library.id_to_token(tokenizer.end_id) if tokenizer.end_id is not None else None
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": closing, "type_id": 0}}]
    if steps[-1] is not None and steps[-1]["type"] == "TemplateProcessing" and steps[-1]["single"] == pieces:
        rest = steps[:-1]
        tree["post_processor"] = None if not rest else rest[0] if len(rest) == 1 else {"type": "Sequence", "processors": rest}
    return json.dumps(tree, ensure_ascii=False)


def write_tokenizer(folder: Path, tokenizer: SubwordTokenizer, max_length: int, *, whole: bool = True) -> None:
    """tokenizer.json and tokenizer_config.json, as transformers reads them.

    Args:
        folder: of the checkpoint.
        tokenizer: of the model.
        max_length: tokens of a text.
        whole: whether texts are closed there too; else as it was before ``close_with``.
    """
    (folder / "tokenizer.json").write_text((tokenizer.library.to_str() if whole else opened(tokenizer)) + "\n", encoding="utf-8")
    told = {"pad_token": tokenizer.library.id_to_token(tokenizer.pad_id)}
    for role, number in (("eos_token", tokenizer.end_id), ("bos_token", tokenizer.begin_id)):
        if number is not None:
            told[role] = tokenizer.library.id_to_token(number)
    if tokenizer.mask_id is not None:
        told["mask_token"] = tokenizer.library.id_to_token(tokenizer.mask_id)
        told |= {"cls_token": told.get("bos_token"), "sep_token": told.get("eos_token")}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length, **told})
