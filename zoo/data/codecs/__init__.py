"""Raw values <-> tensors, one file a kind. The tables below are all that a bundle's processor can name: kinds, never import strings."""

from typing import Any

from zoo.data.codecs.answer import AnswerCodec
from zoo.data.codecs.audio import AudioCodec
from zoo.data.codecs.context import ContextCodec
from zoo.data.codecs.dialogue import DialogueCodec, SaidCodec
from zoo.data.codecs.history import HistoryCodec, ItemCodec
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec, NumberCodec
from zoo.data.codecs.masked import MaskedTokenCodec
from zoo.data.codecs.pair import PairCodec
from zoo.data.codecs.table import TableCodec
from zoo.data.codecs.tag import TagCodec, WordsCodec
from zoo.data.codecs.taught import TaughtCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.codecs.text_pair import TextPairCodec
from zoo.data.codecs.token import NextTokenCodec
from zoo.data.codecs.written import WrittenCodec, WrittenTokenCodec

INPUT_CODECS: dict[str, Any] = {
    codec.kind: codec for codec in (ImageCodec, TextCodec, AudioCodec, HistoryCodec, TableCodec, WrittenCodec, WordsCodec, TextPairCodec, DialogueCodec)
}
TARGET_CODECS: dict[str, Any] = {
    codec.kind: codec
    for codec in (
        ClassCodec,
        TaughtCodec,
        NumberCodec,
        ItemCodec,
        PairCodec,
        NextTokenCodec,
        WrittenTokenCodec,
        MaskedTokenCodec,
        TagCodec,
        AnswerCodec,
        SaidCodec,
        ContextCodec,
    )
}
