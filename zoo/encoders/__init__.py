"""Encoders: from one input to features. One architecture family a file."""
