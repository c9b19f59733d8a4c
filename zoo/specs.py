"""Frozen specs: the only vocabulary that the layers of zoo share. No torch here.

Data declares what it gives (``DataSpec``), an encoder declares what it makes of it (``FeatureSpec``), and heads are built from the
two. Sizes, class counts and vocabularies travel in these and are typed nowhere else.
"""

from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from zoo.errors import ZooError

S = TypeVar("S", bound="Spec")
N = TypeVar("N", "InputSpec", "TargetSpec")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Anything that the builder can wire into a constructor."""


# --- inputs -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InputSpec(Spec):
    """One named input of a model, as the encoder sees it (decoded, tokenised, normalised).

    ``optional``: samples may lack it; ``Values.present`` says which have it.
    """

    kind: ClassVar[str]
    for_decoder: ClassVar[bool] = False
    name: str
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageInput(InputSpec):
    """Values: B C H W, float, normalised. Mask: none."""

    kind = "image"
    channels: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class TokenInput(InputSpec):
    """Values: B N, int64 identifiers below ``vocab_size``; ``pad_id`` fills. Mask: B N, True where real."""

    kind = "tokens"
    vocab_size: int
    max_length: int
    pad_id: int = 0


@dataclass(frozen=True, kw_only=True)
class TextInput(TokenInput):
    """Tokens of a text; special tokens are in the vocabulary."""

    kind = "text"


@dataclass(frozen=True, kw_only=True)
class DialogueInput(TextInput):
    """Tokens of a conversation."""

    kind = "dialogue"


@dataclass(frozen=True, kw_only=True)
class PairInput(TextInput):
    """Tokens of two texts, the first up to the first ``separator``; ``columns`` are the names of the two in a row."""

    kind = "text_pair"
    separator: int | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WrittenInput(TokenInput):
    """What was written before each place of a text that a decoder writes. No encoder takes it."""

    kind = "written"
    for_decoder = True


@dataclass(frozen=True, kw_only=True)
class HistoryInput(TokenInput):
    """What a user met so far, oldest first. Identifier 0 is padding, items are 1 .. vocab_size - 1."""

    kind = "history"


@dataclass(frozen=True, kw_only=True)
class SpectrogramInput(InputSpec):
    """Log-mel. Values: B M T, float. Mask: B T, True where real. ``frame_rate`` in frames a second."""

    kind = "spectrogram"
    n_mels: int
    max_frames: int
    frame_rate: float


@dataclass(frozen=True, kw_only=True)
class TableInput(InputSpec):
    """Values: {"numbers": B K float, standardised; "categories": B C int64, 0 for unseen}. Mask: none.

    ``categories`` holds the number of identifiers of each categorical column, 0 for unseen included.
    """

    kind = "table"
    numbers: int
    categories: tuple[int, ...] = ()


# --- targets ------------------------------------------------------------------------------------------------------------------


class Labelling(StrEnum):
    SINGLE = "single"
    MULTI = "multi"


@dataclass(frozen=True, kw_only=True)
class TargetSpec(Spec):
    """One named target. ``Batch.targets[name]`` holds it."""

    kind: ClassVar[str]
    name: str


@dataclass(frozen=True, kw_only=True)
class ClassTarget(TargetSpec):
    """Single: B int64, ``ignore_index`` where unknown. Multi: B C float of 0 and 1.

    ``counts``: training samples of each class, for class weights; empty where not known.
    ``provisional``: which of ``labels`` and ``counts`` a sketch could not know before the data is read; empty once it is.
    """

    kind = "class"
    labels: tuple[str, ...]
    labelling: Labelling = Labelling.SINGLE
    ignore_index: int = -1
    counts: tuple[int, ...] = ()
    provisional: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def sketched(self, *provisional: str) -> "ClassTarget":
        """The same as a sketch: these fields are stand-ins."""
        return replace(self, provisional=provisional)


@dataclass(frozen=True, kw_only=True)
class TaughtTarget(ClassTarget):
    """Single labels beside what a teacher says: ``Batch.targets[scores]`` is B C float, its logits, NaN where it could not read the sample."""

    kind = "taught"

    @property
    def scores(self) -> str:
        return f"{self.name}_teacher"


@dataclass(frozen=True, kw_only=True)
class NumberTarget(TargetSpec):
    """B K float in the data's own units; NaN where unknown. ``mean`` and ``std`` are of the training split, for heads to scale with."""

    kind = "number"
    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ItemTarget(TargetSpec):
    """The item that follows each position of a history: B N int64, 0 where there is none to predict (padding, or not asked).

    ``Batch.targets[seen]`` is B S int64: items to leave out of a ranking, 0 for padding. Items are 1 .. num_items.
    """

    kind = "item"
    num_items: int
    seen: str = "seen"


@dataclass(frozen=True, kw_only=True)
class PairTarget(TargetSpec):
    """No label: the inputs of a row belong together. B int64; rows with the same number are of one thing, so that any of them matches any other."""

    kind = "pair"


@dataclass(frozen=True, kw_only=True)
class TokenTarget(TargetSpec):
    """The token that follows each position of the text ``of``: B N int64, ``ignore_index`` where there is none to predict.

    ``Batch.targets[bytes]`` is B 1 int64: bytes of UTF-8 that these tokens stand for, for figures that do not depend on the vocabulary.
    """

    kind = "token"
    vocab_size: int
    of: str = "text"
    bytes: str = "bytes"
    ignore_index: int = -1


@dataclass(frozen=True, kw_only=True)
class MaskedTarget(TargetSpec):
    """The tokens that stood where the text ``of`` was masked: B N int64, ``ignore_index`` where nothing is asked."""

    kind = "masked"
    vocab_size: int
    of: str = "text"
    ignore_index: int = -1


@dataclass(frozen=True, kw_only=True)
class TagTarget(TargetSpec):
    """A label for every word of the text ``of``: B N int64, at the first token of a word, ``ignore_index`` elsewhere.

    ``provisional``: ``labels`` where a sketch could not know them; empty once the data is read.
    """

    kind = "tags"
    labels: tuple[str, ...]
    of: str = "text"
    ignore_index: int = -1
    provisional: tuple[str, ...] = ()

    @property
    def bio(self) -> bool:
        """Whether labels make spans: B- and I- with a kind, and O."""
        return all(label == "O" or label[:2] in ("B-", "I-") for label in self.labels)


@dataclass(frozen=True, kw_only=True)
class AnswerTarget(TargetSpec):
    """The first and the last token of an answer in the texts ``of``: B 2 int64, ``ignore_index`` where unknown, ``lost`` where it was cut off.

    ``Batch.targets[places]`` is B N int64: 1 where an answer may stand, and at position 0, which says that there is none; ``ignore_index`` elsewhere.
    """

    kind = "answer"
    of: str = "text"
    places: str = "places"
    ignore_index: int = -1
    lost: int = -2


@dataclass(frozen=True, kw_only=True)
class ContextTarget(TargetSpec):
    """The words around each word of the text ``of``: B N int64, the words themselves, ``ignore_index`` for what is none (padding, special tokens).

    ``counts``: occurrences of each identifier in the training split, 0 for what is no word.
    ``provisional``: says that they are not known before the data is read; empty once they are.
    """

    kind = "context"
    vocab_size: int
    counts: tuple[int, ...] = ()
    of: str = "text"
    ignore_index: int = -1
    provisional: tuple[str, ...] = ()


# --- between the parts of a model -----------------------------------------------------------------------------------------------


class Layout(StrEnum):
    VECTOR = "vector"  # only `pooled`
    SEQUENCE = "sequence"  # `tokens`, perhaps `pooled`
    MAP = "map"  # `maps`, finest first, perhaps `pooled`


@dataclass(frozen=True, kw_only=True)
class MapSpec(Spec):
    """One level of a feature pyramid: B channels H/stride W/stride."""

    channels: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class FeatureSpec(Spec):
    """What an encoder or decoder gives.

    Args:
        dim: width D of ``tokens`` and ``pooled``.
        layout: the richest form that is always there.
        length: tokens of a sequence where it is the same for every item, else None.
        causal: position n depends on inputs up to n only.
        local: position n depends on input n only, whatever stands around it.
        pooled: ``Features.pooled`` is given; heads pool for themselves otherwise.
        maps: feature maps, finest first; empty where there are none.
        parts: names of the positions of ``tokens``, where each is one input by itself; empty elsewhere.
    """

    dim: int
    layout: Layout
    length: int | None = None
    causal: bool = False
    local: bool = False
    pooled: bool = False
    maps: tuple[MapSpec, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Horizon(Spec):
    """How long a run is, for schedules. Steps are optimizer steps."""

    total_steps: int
    steps_per_epoch: int


@dataclass(frozen=True, kw_only=True)
class DataSpec(Spec):
    """Everything that a model needs to know of its data."""

    inputs: tuple[InputSpec, ...]
    targets: tuple[TargetSpec, ...]

    def input(self, name: str) -> InputSpec:
        return by_name(self.inputs, name, "input")

    def target(self, name: str) -> TargetSpec:
        return by_name(self.targets, name, "target")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``config.yaml`` of a bundle."""
        return {group: [{"kind": spec.kind} | _plain(asdict(spec)) for spec in getattr(self, group)] for group in ("inputs", "targets")}

    @classmethod
    def from_dict(cls, node: dict[str, Any]) -> "DataSpec":
        return cls(
            inputs=tuple(_from_node(entry, INPUT_KINDS) for entry in node["inputs"]),
            targets=tuple(_from_node(entry, TARGET_KINDS) for entry in node["targets"]),
        )


INPUT_KINDS: dict[str, type[InputSpec]] = {
    spec.kind: spec for spec in (ImageInput, TextInput, PairInput, DialogueInput, WrittenInput, HistoryInput, SpectrogramInput, TableInput)
}
TARGET_KINDS: dict[str, type[TargetSpec]] = {
    spec.kind: spec
    for spec in (
        ClassTarget,
        TaughtTarget,
        NumberTarget,
        ItemTarget,
        PairTarget,
        TokenTarget,
        MaskedTarget,
        TagTarget,
        AnswerTarget,
        ContextTarget,
    )
}


def by_name(specs: tuple[N, ...], name: str, what: str) -> N:
    for spec in specs:
        if spec.name == name:
            return spec
    raise ZooError(f"the data has no {what} named {name!r}; it has {', '.join(spec.name for spec in specs) or 'none'}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, StrEnum) else value


def _from_node(node: dict[str, Any], kinds: dict[str, type[S]]) -> S:
    values = dict(node)
    kind = kinds.get(values.pop("kind", None))
    if kind is None:
        raise ZooError(f"spec of unknown kind {node.get('kind')!r}; known: {', '.join(kinds)}")
    known = {field.name for field in fields(kind)}
    if unknown := set(values) - known:
        raise ZooError(f"spec {node['kind']!r} has unknown keys {sorted(unknown)}; known: {sorted(known)}")
    if "labelling" in values:
        values["labelling"] = Labelling(values["labelling"])
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
