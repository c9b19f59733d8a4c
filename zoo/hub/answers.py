"""What a web server answered, judged: goes on, begins anew, is worth another try, or is nothing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

ATTEMPTS = 5
"""At one source in a row, without progress."""
HINTS = {401: "it wants a login", 403: "it refuses", 404: "it has no such file", 407: "the proxy wants a login", 429: "it was asked too often"}
MOVED = "open the address in a browser: a file that has moved needs its new address"
LOGIN = "a login that may read the file: `hf auth login` or HF_TOKEN for the hub, ~/.netrc for other hosts"
PROXY = "a proxy that lets this through: HTTPS_PROXY, HTTP_PROXY, with its login; NO_PROXY=HOST goes around it"
TRUST = "the certificates of your network in SSL_CERT_FILE=FILE, where a proxy signs with its own; and this machine's clock has to be right"
TOKEN = "HF_TOKEN, `hf auth login` and ~/.netrc: one of them holds what no header can, such as a line's end or a letter beyond ASCII"


class AttemptError(Exception):
    """One attempt that gave nothing whole.

    Args:
        reason: for people.
        attempts: how often this source may be tried in a row with this outcome.
        anew: whether what is here of the file is of no use.
        wait: seconds that the source asks for.
        unreachable: whether nobody answered.
        other: whether a file came, and it is another one than was asked for.
        way: out of it, where trying again later is none.
    """

    def __init__(
        self,
        reason: str,
        *,
        attempts: int = ATTEMPTS,
        anew: bool = False,
        wait: float | None = None,
        unreachable: bool = False,
        other: bool = False,
        way: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason, self.attempts, self.anew, self.wait, self.unreachable, self.other, self.way = reason, attempts, anew, wait, unreachable, other, way


def accepted(response: "httpx2.Response", start: int) -> bool:
    """Whether the answer goes on at ``start``; False where it begins at 0.

    Raises:
        AttemptError: where it is no file at all.
    """
    status = response.status_code
    if status == 206:
        begins = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if begins != str(start):
            raise AttemptError(f"answers with bytes from {begins or '?'} where {start} was asked for", attempts=2, anew=True)
        return True
    if status == 200:
        return start == 0
    if status == 416:
        raise AttemptError("has less of it than was here already", attempts=2, anew=True)
    reason = f"status {status}: {HINTS.get(status, response.reason_phrase or 'no file')}"
    if status == 429 or status >= 500:
        raise AttemptError(reason, wait=_retry_after(response))
    raise AttemptError(reason, attempts=1, way=LOGIN if status in (401, 403) else PROXY if status == 407 else MOVED)


def expected_length(response: "httpx2.Response", start: int, size: int | None) -> int | None:
    """How long the whole file has to be.

    Raises:
        AttemptError: where the source says something else than is known.
    """
    told = response.headers.get("Content-Length")
    if told is None or not (told.isascii() and told.isdigit()):
        return size
    whole = start + int(told)
    if size is not None and whole != size:
        raise AttemptError(f"its file has {whole:,} bytes, not {size:,}", attempts=2 if start else 1, anew=True, other=True)
    return whole


def told(error: "httpx2.HTTPError") -> AttemptError:
    import httpx2

    text = " ".join(str(error).split()) or type(error).__name__
    if "CERTIFICATE" in text.upper() or "certificate" in text:
        return untrusted(text)
    match error:
        case httpx2.LocalProtocolError():  # without its text, which may be a password
            return AttemptError("cannot be asked: a header of the request is not one", attempts=1, way=TOKEN)
        case httpx2.ProxyError():
            return AttemptError(f"the proxy refuses ({text})", attempts=1, way=PROXY)
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return AttemptError(f"cannot be reached ({text})", attempts=2, unreachable=True)
        case httpx2.TimeoutException():
            return AttemptError("sent nothing for too long", attempts=2)
        case httpx2.TooManyRedirects() | httpx2.UnsupportedProtocol():
            return AttemptError(text, attempts=1, way=MOVED)
    return AttemptError(f"broke off ({text})")


def untrusted(text: str) -> AttemptError:
    """Of a certificate that does not hold."""
    return AttemptError(f"no trusted connection ({text})", attempts=1, way=TRUST)


def _retry_after(response: "httpx2.Response") -> float | None:
    told = response.headers.get("Retry-After", "")
    return float(told) if told.isascii() and told.isdigit() else None
