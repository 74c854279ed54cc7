"""Which failures of a store pass by themselves, and how long they are waited for.

Only timeouts, broken connections, short bodies and answers that ask to come again (408, 429, most 5xx) are tried again.
Whatever else is wrong stays wrong, and is said at once.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

from viewfold.errors import ShardError, ViewfoldError
from viewfold.pipeline.remote.urls import CREDENTIALS, file_name, scheme, shown, without_secrets

T = TypeVar("T")

# By the names of types: the packages that raise them are optional, and importing all of them to compare is slow.
_KINDS = {
    "certificate": {"ClientConnectorCertificateError", "SSLCertVerificationError"},
    "tls": {"ClientConnectorSSLError"},
    "credentials": {
        "CredentialRetrievalError", "GoogleAuthError", "NoCredentialsError", "PartialCredentialsError",
    },
    "passing": {
        "ClientConnectionError",  # aiohttp
        "ClientPayloadError",
        "ConnectionError",  # Python and requests
        "FSTimeoutError",  # fsspec
        "HTTPClientError",  # botocore: timeouts and connections
        "IncompleteRead",  # http.client, urllib3
        "IncompleteReadError",  # botocore
        "ResponseParserError",  # botocore: S3 answers some overloads with half an XML
        "ResponseStreamingError",
        "ShortBody",
        "Timeout",  # requests
        "TimeoutError",  # Python, asyncio
        "TransportError",  # httpx
        "gaierror",
    },
    "gone": {"FileNotFoundError"},
    "refused": {"PermissionError"},
    "other": {"OSError"},
}  # fmt: skip
_MAPPED = {"aiohttp", "botocore", "fsspec", "gcsfs", "google", "httpx", "httpx2", "huggingface_hub", "requests", "s3fs"}

_ASKS_AGAIN = {408, 412, 425, 429, 500, 502, 503, 504, 509, 529}  # 412: another version came while one was read
_LONGEST_WAIT_S = 300.0  # a server that asks for more is taken at its word: not now
_NO_SUCH_HOST = -2  # EAI_NONAME; the other failures of name resolution pass


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a store that does not answer is waited for."""

    tries: int = 8
    """Failures in a row, without one more byte between them, after which it is given up."""
    first_pause_s: float = 0.5
    """Pause after the first failure; it doubles with each further one."""
    longest_pause_s: float = 20.0
    stall_s: float = 30.0
    """A request without an answer, or a body without another byte, for so long has failed."""
    sleep: Callable[[float], None] = time.sleep

    def pause_s(self, failures: int) -> float:
        """Seconds to wait after this many failures: half to all of the step, so that ranks do not return together."""
        step: float = min(self.longest_pause_s, self.first_pause_s * 2 ** (failures - 1))
        return step * random.SystemRandom().uniform(0.5, 1.0)  # leaves the global generator alone


class ShortBody(Exception):
    """A body that ended before its length; or one that is no longer the version it began with."""


class Verdict(NamedTuple):
    """What a failure means."""

    passing: bool
    what: str
    wait_s: float = 0.0
    """What the server asked for (Retry-After)."""


def persist(url: str, attempt: Callable[[], T], patience: Patience, *, reached: Callable[[], int] = lambda: 0) -> T:
    """What `attempt` returns, tried again while its failures pass by themselves; `reached` counts its progress.

    Raises:
        ShardError: a failure that stays, or that came too often in a row without progress.
    """
    failures, best = 0, reached()
    while True:
        try:
            return attempt()
        except ViewfoldError:
            raise
        except Exception as error:
            verdict = judge(error, url)
            if verdict is None:
                raise
        failures = failures + 1 if reached() <= best else 1
        best = max(best, reached())
        if not verdict.passing:
            raise ShardError(file_name(url), f"cannot be read at {shown(url)}: {verdict.what}")
        late = verdict.wait_s > _LONGEST_WAIT_S
        if late or failures >= patience.tries:
            given_up = (
                f"it asks to wait {verdict.wait_s:.0f} s" if late else f"given up after {failures} tries in a row"
            )
            raise ShardError(
                file_name(url),
                f"cannot be read at {shown(url)}: {verdict.what}; {given_up};"
                " go on later, or copy the shards to a local disk",
            )
        if failures == 2:  # one failure is nothing; a second one may be the beginning of a long wait
            print(f"note: {shown(url)}: {verdict.what}; it is tried again", file=sys.stderr, flush=True)
        patience.sleep(max(patience.pause_s(failures), verdict.wait_s))


def judge(error: Exception, url: str) -> Verdict | None:
    """What a failure of another library means; None where it is not about the store at all but a mistake of ours."""
    chain = list(_chain(error))
    answers = [answer for link in chain if (answer := _answer(link)) is not None]
    if answers:
        return _judge_answer(*answers[0], url)
    reason = without_secrets(str(getattr(chain[0], "message", chain[0]))) or type(chain[0]).__name__
    verdicts = {
        "certificate": Verdict(
            False, f"its certificate is not accepted ({reason}); SSL_CERT_FILE names those to trust"
        ),
        "tls": Verdict(False, f"no secure connection ({reason})"),
        "credentials": _refused(reason, url),
        "host": Verdict(False, f"there is no host of that name ({reason})"),
        "passing": Verdict(True, reason),
        "gone": _gone(""),
        "refused": _refused(reason, url),
        "other": Verdict(False, f"{reason} ({type(error).__name__})"),
    }
    kinds = {kind for link in chain for kind in _kinds(link)}
    return next((verdict for kind, verdict in verdicts.items() if kind in kinds), None)


def _kinds(error: BaseException) -> Iterator[str]:
    """Of which kinds an error is; the first in the order of `judge` is the one that counts."""
    names = {base.__name__ for base in type(error).__mro__}
    yield from (kind for kind, known in _KINDS.items() if names & known)
    if "gaierror" in names and getattr(error, "errno", None) == _NO_SUCH_HOST:
        yield "host"
    if str(error).startswith("Forbidden"):  # gcsfs has no type for a 403
        yield "refused"
    if type(error).__module__.split(".")[0] in _MAPPED:
        yield "other"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the first cause first: what happened stands before what was made of it."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _chain(cause)
    yield error


def _answer(error: BaseException) -> tuple[int, str, Mapping[str, str]] | None:
    """Status, code and headers of the answer that an error of aiohttp, botocore, gcsfs or httpx holds."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        about = response.get("ResponseMetadata", {})
        code = str(response.get("Error", {}).get("Code", ""))
        return about.get("HTTPStatusCode", 0), code, about.get("HTTPHeaders", {})
    # gcsfs alone calls the status `code`; in aiohttp that is also what a parser thinks of a body that was cut.
    source, name = (error, "code") if type(error).__module__.startswith("gcsfs.") else (error, "status")
    if response is not None:
        source, name = response, "status_code"
    status = getattr(source, name, None)
    return (status, "", getattr(source, "headers", None) or {}) if isinstance(status, int) and status else None


def _judge_answer(status: int, code: str, headers: Mapping[str, str], url: str) -> Verdict:
    if not code or code.isdigit():
        code = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    says = f"{status} {code}".strip()
    if status in _ASKS_AGAIN or code == "RequestTimeout":  # S3 answers 400 RequestTimeout to a slow line
        return Verdict(True, f"the server answers {says}", _retry_after_s(headers))
    if status in (404, 410):
        return _gone(f" ({says})")
    if status in (401, 403, 407):
        return _refused(says, url)
    return Verdict(False, f"the server answers {says}")


def _gone(says: str) -> Verdict:
    return Verdict(False, f"nothing is there{says}; check the address, or index the shards where they lie now")


def _refused(says: str, url: str) -> Verdict:
    return Verdict(False, f"access is refused ({says}); credentials are looked for in {CREDENTIALS[scheme(url)]}")


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds, given as such or as a date; 0 where the server does not say."""
    value = {name.lower(): value for name, value in headers.items()}.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
