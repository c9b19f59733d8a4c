"""The trainer and what belongs to a run."""
