"""Raw values <-> tensors, one file a kind. The table below is all that a bundle's processor can name: kinds, never import strings."""

from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec, NumberCodec

INPUT_CODECS = {codec.kind: codec for codec in (ImageCodec,)}
TARGET_CODECS = {codec.kind: codec for codec in (ClassCodec, NumberCodec)}
