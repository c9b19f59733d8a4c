"""What sentence-transformers keeps beside an encoder of texts: the modules that a vector passes through, how tokens are pooled, and where a text is cut.

https://sbert.net/docs/package_reference/sentence_transformer/models.html
"""

from enum import StrEnum
from pathlib import Path

from zoo.errors import CheckpointError
from zoo.hub.convert.snapshot import Snapshot, write_json
from zoo.hub.uri import inside

MODULES = ("Transformer", "Pooling", "Normalize")
"""Of sentence-transformers: what a vector passes through. zoo's have length 1 in any case, as those have that are compared by their cosine."""


class SentencePooling(StrEnum):
    CONFIG = "config"
    MEAN = "mean"
    CLS = "cls"
    MAX = "max"


POOLINGS = {
    "mean_tokens": SentencePooling.MEAN,
    "cls_token": SentencePooling.CLS,
    "max_tokens": SentencePooling.MAX,
    **{str(mode): mode for mode in (SentencePooling.MEAN, SentencePooling.CLS, SentencePooling.MAX)},
}
"""What sentence-transformers calls them: until its version 5 and since."""


def pooling_of(snapshot: Snapshot) -> SentencePooling:
    """How sentence-transformers pools it; the mean where its files are not there.

    Raises:
        CheckpointError: for modules and poolings that zoo does not have.
    """
    folder = _pooling_folder(snapshot)
    if folder is None:
        return SentencePooling.MEAN
    told = snapshot.optional(f"{folder}/config.json")
    modes = told.get("pooling_mode", [key.removeprefix("pooling_mode_") for key, value in told.items() if key.startswith("pooling_mode_") and value])
    names = list(map(str, modes)) if isinstance(modes, list) else [str(modes)]
    if len(names) != 1 or names[0] not in POOLINGS:
        raise CheckpointError(
            f"{snapshot.name}: {folder}/config.json: pools by {' and '.join(names) or 'nothing that it says'}, where exactly one is needed of "
            f"{', '.join(POOLINGS)}; other vectors would come out\n  way out: a checkpoint that pools so"
        )
    return POOLINGS[names[0]]


def _pooling_folder(snapshot: Snapshot) -> str | None:
    """By modules.json; the usual one where only that is there, None for an encoder that sentence-transformers has not made."""
    modules, usual = snapshot.rows("modules.json"), "1_Pooling"
    if modules is None:
        return usual if (snapshot.folder / usual / "config.json").is_file() else None
    types = [str(module.get("type")) for module in modules]
    kinds = tuple(kind.rpartition(".")[2] for kind in types)
    if strange := [kind for kind, last in zip(types, kinds, strict=True) if last not in MODULES or not kind.startswith("sentence_transformers.")]:
        raise CheckpointError(
            f"{snapshot.name}: modules.json: {strange[0]}: zoo has {', '.join(MODULES)} of sentence_transformers; without it other vectors would come out\n"
            "  way out: a checkpoint without this module"
        )
    paths = [str(module.get("path")) for module in modules]
    if kinds not in (MODULES, MODULES[:2]) or paths[0] or not inside(paths[1]):
        raise CheckpointError(
            f"{snapshot.name}: modules.json: {' -> '.join(f'{kind} in {path!r}' for kind, path in zip(kinds, paths, strict=True))}, where "
            "Transformer in '' -> Pooling in a folder (-> Normalize) is needed; other vectors would come out"
        )
    return paths[1]


def write_sentence_encoder(folder: Path, pooling: str, dim: int, max_length: int) -> None:
    """What sentence-transformers keeps beside a BERT: the modules that a vector passes through, and where a text is cut."""
    paths = ("", *(f"{place}_{kind}" for place, kind in enumerate(MODULES) if place))
    rows = enumerate(zip(MODULES, paths, strict=True))
    write_json(folder / "modules.json", [{"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"} for n, (kind, path) in rows])
    modes = {f"pooling_mode_{key}": POOLINGS[key] == pooling for key in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / paths[1]).mkdir()
    write_json(folder / paths[1] / "config.json", {"word_embedding_dimension": dim} | modes)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
