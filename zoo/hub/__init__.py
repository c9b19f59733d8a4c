"""Bundles: what a finished run publishes."""
