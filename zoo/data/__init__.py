"""Data: sources, codecs, transforms, tokenizers, loader."""
