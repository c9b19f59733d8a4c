"""The `zoo` command: one file a command, with light imports."""
