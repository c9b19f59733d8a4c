"""Foreign checkpoints -> bundles, and back. One file a format; each knows a published layout by its names and shapes, and needs no foreign library."""

from zoo.hub.convert.base import Converter, Foreign, convert, converter_of

__all__ = ["Converter", "Foreign", "convert", "converter_of"]
