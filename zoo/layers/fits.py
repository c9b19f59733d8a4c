"""What an axis of a parameter stands for, where another model's may be longer or shorter: declared by components, used when weights are taken over.

class VisionTransformer(nn.Module):
    fits = {"positions.weight": Fit.GRID, "patches.proj.weight": Fit.PATCHES}
"""

from enum import StrEnum


class Fit(StrEnum):
    GRID = "grid"  # N D: places of an image's patches, after a cls token if the module has one: interpolated
    PATCHES = "patches"  # D (C P P): pixels of a patch: resampled so that its products stay what they were
    POSITIONS = "positions"  # N D: places in a sequence: those that both have are kept
    VOCABULARY = "vocabulary"  # V D: entries of a tokenizer: rows follow their entries
    LABELS = "labels"  # C ...: classes: rows follow their names
