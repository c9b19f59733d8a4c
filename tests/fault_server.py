"""A file server on loopback that does what bad networks do, one fault after the other."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.loopback import loopback

Fault = Callable[["Handler", bytes, int], None]


@dataclass
class Files:
    """What is served, and what goes wrong.

    Args:
        content: by path.
        faults: by path: what happens at each request in turn; after the last one the file is given as it should be.
        asked: every request: path and where it begins.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Files

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        given = self.headers.get("Range", "bytes=0-")
        start = int(given.removeprefix("bytes=").partition("-")[0])
        with self.files.lock:
            self.files.asked.append((path, start))
            fault = self.files.faults[path].pop(0) if self.files.faults.get(path) else None
        if fault is None and path not in self.files.content:
            fault = status(404)
        (fault or whole)(self, self.files.content.get(path, b""), start)

    def begin(self, length: int, start: int, total: int, code: int | None = None) -> None:
        self.send_response(code or (206 if start else 200))
        self.send_header("Content-Length", str(length))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def whole(handler: Handler, content: bytes, start: int) -> None:
    if start >= len(content) > 0:
        handler.begin(0, 0, 0, 416)
        return
    handler.begin(len(content) - start, start, len(content))
    handler.wfile.write(content[start:])


def status(code: int) -> Fault:
    return lambda handler, content, start: handler.begin(0, 0, 0, code)


def headed(code: int, headers: dict[str, str]) -> Fault:
    """No content; these headers."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.send_response(code)
        for name, value in (headers | {"Content-Length": "0"}).items():
            handler.send_header(name, value)
        handler.end_headers()

    return fault


def from_the_beginning(after: int) -> Fault:
    """A server that ignores ranges; the connection is gone after so many bytes."""
    return lambda handler, content, start: cut(after)(handler, content, 0)


def cut(after: int) -> Fault:
    """The connection is gone after so many bytes."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(len(content) - start, start, len(content))
        handler.wfile.write(content[start : start + after])
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.close()

    return fault


def trickle(seconds: float) -> Fault:
    """A byte now and then, for so long."""

    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(len(content) - start, start, len(content))
        end = time.monotonic() + seconds
        for place in range(start, len(content)):
            if time.monotonic() > end:
                return
            try:
                handler.wfile.write(content[place : place + 1])
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    return fault


def silence(seconds: float) -> Fault:
    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.begin(len(content) - start, start, len(content))
        time.sleep(seconds)
        handler.close_connection = True

    return fault


def without_ranges(handler: Handler, content: bytes, start: int) -> None:
    whole(handler, content, 0)


def longer(by: int) -> Fault:
    return lambda handler, content, start: whole(handler, content + b"x" * by, start)


def other(content: bytes) -> Fault:
    """Something else of the same length or not."""
    return lambda handler, _, start: whole(handler, content, start)


def redirect(url: str) -> Fault:
    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return fault


def certificate(folder: Path, *, days: int) -> Path:
    """A certificate of 127.0.0.1 with its key, valid for so many days from now; negative: it expired as long ago."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")]), datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=100), now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"certificate_{days}.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return file


@contextmanager
def serving(content: dict[str, bytes], faults: dict[str, list[Fault]] | None = None, *, tls: Path | None = None) -> Iterator[Files]:
    files = Files(content=dict(content), faults={path: list(entries) for path, entries in (faults or {}).items()})
    with loopback(type("Bound", (Handler,), {"files": files}), tls=tls) as files.url:
        yield files
