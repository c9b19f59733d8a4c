"""Followers of a run's log, registered as kind ``logger``."""
