"""Decoders: from features to features. One family a file."""
