"""Processes, devices and collectives. Models know nothing of what is here."""
