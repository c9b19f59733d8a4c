"""What a web server answered, judged: goes on, begins anew, is worth another try, or is nothing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

ATTEMPTS = 5
"""At one source in a row, without progress."""


class AttemptError(Exception):
    """One attempt that gave nothing whole.

    Args:
        reason: for people.
        attempts: how often this source may be tried in a row with this outcome.
        anew: whether what is here of the file is of no use.
        wait: seconds that the source asks for.
        unreachable: whether nobody answered.
        other: whether a file came, and it is another one than was asked for.
    """

    def __init__(
        self, reason: str, *, attempts: int = ATTEMPTS, anew: bool = False, wait: float | None = None, unreachable: bool = False, other: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.attempts, self.anew, self.wait, self.unreachable, self.other = reason, attempts, anew, wait, unreachable, other


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
    hint = {401: "it wants a login (hf auth login, HF_TOKEN, ~/.netrc)", 403: "it refuses", 404: "it has no such file", 429: "it was asked too often"}
    reason = f"status {status}: {hint.get(status, response.reason_phrase or 'no file')}"
    passing = status == 429 or status >= 500
    raise AttemptError(reason, attempts=ATTEMPTS if passing else 1, wait=_retry_after(response) if passing else None)


def expected_length(response: "httpx2.Response", start: int, size: int | None) -> int | None:
    """How long the whole file has to be.

    Raises:
        AttemptError: where the source says something else than is known.
    """
    told = response.headers.get("Content-Length")
    if told is None or not told.isdigit():
        return size
    whole = start + int(told)
    if size is not None and whole != size:
        raise AttemptError(f"its file has {whole:,} bytes, not {size:,}", attempts=2 if start else 1, anew=True, other=True)
    return whole


def told(error: "httpx2.HTTPError") -> AttemptError:
    import httpx2

    text = " ".join(str(error).split()) or type(error).__name__
    if "CERTIFICATE" in text.upper() or "certificate" in text:
        return AttemptError(f"no trusted connection ({text})", attempts=1)
    match error:
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return AttemptError(f"cannot be reached ({text})", attempts=2, unreachable=True)
        case httpx2.TimeoutException():
            return AttemptError("sent nothing for too long", attempts=2)
        case httpx2.TooManyRedirects() | httpx2.UnsupportedProtocol():
            return AttemptError(text, attempts=1)
    return AttemptError(f"broke off ({text})")


def _retry_after(response: "httpx2.Response") -> float | None:
    told = response.headers.get("Retry-After", "")
    return float(told) if told.isdigit() else None
