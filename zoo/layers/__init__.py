"""Building blocks that carry no name in the registry."""
