"""The shipped digits model as files, and archives of them."""

import io
import zipfile

from zoo.hub.resolve import pretrained

DIGITS = pretrained()["digits_cnn"]
FILES = {str(path.relative_to(DIGITS)): path.read_bytes() for path in sorted(DIGITS.rglob("*")) if path.is_file()}


def zipped(files: dict[str, bytes], inside: str = "") -> bytes:
    """A zip of files by name, below the folder ``inside``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in files.items():
            opened.writestr(f"{inside}{name}", content)
    return buffer.getvalue()
