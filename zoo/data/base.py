"""What a source of data is to zoo: options first, then a sketch, then the data itself.

A dataset goes through three stages, so that a composition is checked before anything is read:
1. the constructor takes options and touches no file;
2. ``sketch()`` gives a ``DataSpec`` from the options alone, with stand-ins for what only the data can tell (class counts);
3. ``open()`` reads what has to be read, fits vocabularies on the training split, and gives ``OpenData``.

A raw sample is a mapping of input and target names to ordinary Python values: a PIL image or a path, a string, a sound file's path or
``(waveform, sample_rate)``, a list of raw item identifiers, a row of a table. Codecs turn raw values into tensors; they are what a
bundle keeps, so that ``zoo predict`` prepares its input exactly as training did.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from zoo.errors import DataError
from zoo.random import SampleRandom
from zoo.specs import DataSpec, InputSpec, TargetSpec
from zoo.structs import Values

Encoded = Mapping[str, Tensor]
"""One sample's value of one input or target: named tensors without the batch axis. Images ``{"values": uint8 C H W}``, tokens
``{"values": N}``, spectrograms ``{"values": M T}``, tables ``{"numbers": K, "categories": C}``, classes ``{"values": ()}``."""


class InputCodec(Protocol):
    """Raw value of one input -> tensors. Registered by kind in ``zoo.data.codecs``; its options and fitted state go into bundles."""

    kind: ClassVar[str]
    ragged: ClassVar[str | None]
    """Name of the axis that varies between samples ("tokens", "frames"), None where all samples have one shape; it is the last."""

    @property
    def spec(self) -> InputSpec: ...

    @property
    def pad(self) -> int:
        """What fills shorter rows of a batch."""

    def encode(self, raw: Any) -> Encoded:
        """One sample; deterministic. Raises ``DataError`` for what cannot be decoded, with the reason."""

    def finish(self, values: Values) -> Values:
        """A collated batch, after random transforms, as the encoder takes it (e.g. uint8 images -> normalised float)."""

    def state(self) -> dict[str, Any]:
        """Options and fitted state as plain JSON values."""

    def save_files(self, folder: Path) -> None:
        """Whatever does not fit into JSON (a tokenizer's own file)."""


class TargetCodec(Protocol):
    """Raw value of one target -> tensors; for targets that answers are read back from.

    One that changes an input, as masked tokens do, has ``source``, that input's name, and ``draw(values, targets, random)``, which gives both anew.
    """

    kind: ClassVar[str]
    ragged: ClassVar[str | None]

    @property
    def spec(self) -> TargetSpec: ...

    @property
    def pad(self) -> int: ...

    def encode(self, raw: Any) -> Encoded:
        """One sample. Raises ``DataError`` for a value outside the vocabulary."""

    def state(self) -> dict[str, Any]:
        """Options and fitted state as plain JSON values."""


@runtime_checkable
class Transform(Protocol):
    """A random change of a whole batch of one input, in training only. Registered as kind ``transform``.

    Randomness comes from ``random`` alone, so that a sample is changed in the same way in any batch, worker and rank. A transform whose
    options have to fit the data has a method ``check(spec)`` too, which raises ``ValueError``; it is asked before the first batch.
    """

    input_kind: ClassVar[str]

    def __call__(self, values: Values, random: SampleRandom) -> Values:
        """Same shapes out as in, except where the docstring says otherwise. Images arrive as uint8 B C H W."""


class Tokenizer(Protocol):
    """Text -> identifiers. Registered as kind ``tokenizer``; trained on the training split, or loaded."""

    kind: ClassVar[str]
    """The name that it is registered under, by which a bundle finds it again."""
    vocab_size: int
    """Before training: the most that it may become."""
    pad_id: int

    def train(self, texts: Sequence[str]) -> None:
        """Fit the vocabulary; harmless on a tokenizer that needs none or has been loaded."""

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Identifiers with the special tokens that the model is trained with, of which none is lost when a long text is cut. Never empty."""

    def prompt(self, text: str) -> list[int]:
        """As ``encode``, without what closes a text: what a continuation goes on from."""

    @property
    def begin_id(self) -> int | None:
        """The token that opens a text; None where none does."""

    @property
    def end_id(self) -> int | None:
        """The token that closes a text; None where none does."""

    def cut_at(self, text: str, max_length: int) -> int | None:
        """Bytes of the text's UTF-8 that ``encode(text, max_length)`` holds, where that is not all of it; None where nothing is cut off."""

    def offsets(self, text: str, max_length: int | None = None) -> list[tuple[int, int]]:
        """Where each token of ``encode`` stands in the text, from and up to a letter; (0, 0) for special ones."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of identifiers; special tokens are left out."""

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and what else is needed."""

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """What ``save`` wrote. Raises ``CheckpointError`` where it is missing or damaged."""


class Split(Protocol):
    """One part of a dataset: raw samples by number."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Mapping[str, Any]:
        """Raw values of one sample, inputs and targets by name. Raises ``DataError`` where the sample cannot be read."""

    def describe(self, index: int) -> str:
        """The sample's name for people: a file's path, a line's number, a user's identifier."""


@runtime_checkable
class SelectiveSplit(Protocol):
    """A split that can leave out of its samples what nobody asks for, so that a hole there spoils no sample."""

    def only(self, names: Collection[str]) -> Split:
        """The same samples with these inputs and targets alone."""


@runtime_checkable
class MeasuredSplit(Protocol):
    """A split that knows how long its inputs are without reading them."""

    def lengths(self) -> dict[str, Tensor]:
        """S of each ragged input, by name."""


@runtime_checkable
class BoundSplit(Protocol):
    """A split some of whose samples are to come in one batch of training, as what they are told from stands among them."""

    def together(self) -> Tensor | None:
        """S int64, equal for those; None where nothing binds them."""


@dataclass(frozen=True)
class OpenData:
    """A dataset that has been opened.

    Args:
        inputs: codec of each input, by name.
        targets: codec of each target, by name.
        splits: "train", and "validation" and "test" where there are any.
        notes: facts about the data for people and model cards (licence, split rule, counts).
        optional: inputs that a sample may lack: its raw value is None, or not there. A sample that lacks all inputs cannot be used.
    """

    inputs: Mapping[str, InputCodec]
    targets: Mapping[str, TargetCodec]
    splits: Mapping[str, Split]
    notes: dict[str, str] = field(default_factory=dict)
    optional: Collection[str] = ()

    @property
    def spec(self) -> DataSpec:
        return spec_of(self.inputs, self.targets, self.optional)

    def only(self, inputs: Collection[str], targets: Collection[str]) -> "OpenData":
        """The same samples with these inputs and targets alone: what a model does not take can neither fail nor cost anything.

        Raises:
            DataError: where the data has no such input or target.
        """
        for kind, wanted, known in (("input", inputs, self.inputs), ("target", targets, self.targets)):
            if absent := sorted(set(wanted) - set(known)):
                raise DataError(f"the data has no {kind} {absent[0]!r}; it has {', '.join(known) or 'none'}")
        names = {*inputs, *targets}
        return OpenData(
            inputs={name: codec for name, codec in self.inputs.items() if name in names},
            targets={name: codec for name, codec in self.targets.items() if name in names},
            splits={name: split.only(names) if isinstance(split, SelectiveSplit) else split for name, split in self.splits.items()},
            notes=self.notes,
            optional=[name for name in self.optional if name in names],
        )


def spec_of(inputs: Mapping[str, InputCodec], targets: Mapping[str, TargetCodec], optional: Collection[str] = ()) -> DataSpec:
    """What the codecs give, where samples may lack the ``optional`` inputs."""
    given = tuple(replace(codec.spec, optional=name in optional) for name, codec in inputs.items())
    return DataSpec(inputs=given, targets=tuple(codec.spec for codec in targets.values()))


class Dataset(Protocol):
    """Registered as kind ``dataset``."""

    def sketch(self) -> DataSpec:
        """The spec as far as options tell it; touches no file."""

    def open(self) -> OpenData:
        """Read, split, fit. Raises ``DataError`` with the path and how to get the data."""
