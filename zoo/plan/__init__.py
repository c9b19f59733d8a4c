"""``zoo plan``: what a step will cost, before there is a machine to run it on.

A training step is traced on fake tensors (``trace``), laid out over devices (``layout``), and turned into bytes a device (``memory``),
bytes on the links (``communication``), seconds (``time``) and, where there is a target, into the cheapest layout that meets it (``search``).
"""
