"""Text -> identifiers, one kind of tokenizer a file."""
