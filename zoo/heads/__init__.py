"""Heads: one task a file: forward, loss terms, metrics, and decoding to an answer."""
