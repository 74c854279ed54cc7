"""Any server that speaks OpenAI's chat completions (vLLM, llama-server, hosted ones). The only importer of openai."""

import email.utils
import math
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from viewfold.errors import InvalidInput, MissingDependency
from viewfold.retrieval.lmm.client import Completion
from viewfold.retrieval.lmm.refusals import refusal, server_words

API_KEY_VARIABLE = "VIEWFOLD_LMM_API_KEY"
"""Where the key is looked for: not in OPENAI_API_KEY, which is meant for one server and not for any address given."""

MAX_WAIT_S = 120.0
"""A server that asks for a longer pause is not asked again."""


def api_key_from_environment(variable: str = API_KEY_VARIABLE) -> str | None:
    """The key in an environment variable, None where it is not set or empty."""
    return os.environ.get(variable, "").strip() or None


class OpenAIClient:
    """A model behind a chat completions address."""

    def __init__(
        self, url: str, model: str, *, api_key: str | None = None, retries: int = 3, backoff_s: float = 0.5
    ) -> None:
        """`url` as in http://localhost:8000/v1 (`/v1` is added to one without a path); `model` as the server names it.

        After a 429, a 5xx or a lost connection the request is sent again, at most `retries` times: after the pause
        that the server asks for (Retry-After), else after `backoff_s`, then twice that, and so on.

        Raises:
            InvalidInput: `url` is not an http address, or the key cannot be sent.
            MissingDependency: openai is not installed.
        """
        self._url, self._model, self._api_key = _base_url(url), model, api_key
        self._retries, self._backoff_s = retries, backoff_s
        self._knows_response_format = True
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise InvalidInput("the API key has characters that no key has; set its variable again")
        self._client = _connected(self._url, api_key)
        weakref.finalize(self, self._client.close)  # its connections, when nobody asks any more

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        timeout_s: float = 60.0,
    ) -> Completion:
        """The answer, held to `schema` by `response_format` unless the server refuses that: then asked for without.

        A timeout is not tried again: the server may still be at work on the first request.

        Raises:
            InvalidInput: the server cannot be reached, does not answer in time or refuses the request; one line that
                says what to do, without the key.
        """
        request = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "timeout": timeout_s,
        }
        openai = load_openai()
        try:
            if schema is not None and self._knows_response_format:
                held = {"name": "answer", "schema": dict(schema), "strict": True}
                try:
                    return self._asked({**request, "response_format": {"type": "json_schema", "json_schema": held}})
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    if not _names_response_format(error.body):
                        raise
                    self._knows_response_format = False
            return self._asked(request)
        except openai.APIStatusError as error:
            raise self._refusal(error, messages) from None

    def _asked(self, request: Mapping[str, Any]) -> Completion:
        """The first attempt that goes well."""
        openai = load_openai()
        for attempt in range(self._retries + 1):
            try:
                return self._attempt(request)
            except openai.APITimeoutError:
                raise InvalidInput(
                    f"{self._url}: no answer within {request['timeout']:g} s; allow more time, or ask for fewer "
                    "demonstrations or a shorter answer"
                ) from None
            except (openai.RateLimitError, openai.InternalServerError) as error:
                wait = _retry_after(error.response.headers)
                if attempt == self._retries or (wait or 0) > MAX_WAIT_S:
                    raise
            except openai.APIConnectionError as error:
                wait = None
                if attempt == self._retries:
                    cause = " ".join(str(error.__cause__ or error).split())
                    raise InvalidInput(
                        f"{self._url}: cannot reach a server there ({cause}); start it, or correct the address"
                    ) from None
            time.sleep(self._backoff_s * 2**attempt if wait is None else wait)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, request: Mapping[str, Any]) -> Completion:
        started = time.perf_counter()
        try:
            answer = self._client.chat.completions.create(**request)
        except ValueError as error:  # a body that says it is JSON and is not
            raise InvalidInput(f"{self._url}: the answer is not JSON: {' '.join(str(error).split())}") from None
        latency_s = time.perf_counter() - started
        choices = getattr(answer, "choices", None)
        content = getattr(getattr(choices[0], "message", None), "content", 0) if choices else 0
        if not isinstance(content, str | None):
            raise InvalidInput(f"{self._url}: the answer is no chat completion; is this the address of its API?")
        usage = getattr(answer, "usage", None)
        return Completion(
            text=_encodable(content or ""),
            prompt_tokens=getattr(usage, "prompt_tokens", None),
            completion_tokens=getattr(usage, "completion_tokens", None),
            latency_s=latency_s,
            model=_encodable(str(getattr(answer, "model", None) or self._model)),
            constrained="response_format" in request,
        )

    def _refusal(self, error: Any, messages: Sequence[Mapping[str, Any]]) -> InvalidInput:
        error_line = refusal(
            error.status_code,
            self._without_key(server_words(error.body)),  # before the words are cut, which may halve the key
            server=self._url,
            model=self._model,
            num_images=sum(
                part["type"] == "image_url"
                for message in messages
                if not isinstance(message["content"], str)
                for part in message["content"]
            ),
            advice=f"{'check' if self._api_key else 'set'} the environment variable {API_KEY_VARIABLE}",
            served=self._served() if error.status_code == 404 else [],
        )
        return InvalidInput(self._without_key(str(error_line)))

    def _without_key(self, text: str) -> str:
        """A server may repeat what it was sent."""
        return text.replace(self._api_key, "***") if self._api_key else text

    def _served(self) -> list[str]:
        """Names of the server's models; none where it does not list them."""
        try:
            return [model.id for model in self._client.models.list(timeout=5.0).data or []]
        except (load_openai().OpenAIError, ValueError, AttributeError):
            return []


def load_openai() -> Any:
    """The openai package; it takes most of a second, so it is imported when the first client is made.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import openai
    except ModuleNotFoundError:
        raise MissingDependency("asking a model needs openai: pip install 'viewfold[lmm]'") from None
    return openai


def _connected(url: str, api_key: str | None) -> Any:
    """The package's client, which sends nothing but what it is given here."""
    openai = load_openai()
    try:
        # A server without keys takes any; without one the package would look for OPENAI_API_KEY.
        client = openai.OpenAI(base_url=url, api_key=api_key or "none", max_retries=0)
    except Exception:  # its HTTP library's own class for an address it cannot read; nothing else here can be wrong
        raise _no_address(url) from None
    # Taken from OPENAI_CUSTOM_HEADERS, OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_ADMIN_KEY: secrets for one server,
    # not for any address given, and such a header may stand in for our key.
    client.organization = client.project = client.admin_api_key = None
    client._custom_headers = {}
    return client


def _base_url(url: str) -> str:
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise InvalidInput(f"the address of the server holds a password; set {API_KEY_VARIABLE} instead")
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        known = None
    if not known:
        raise _no_address(url)
    return url.rstrip("/") if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1"


def _no_address(url: str) -> InvalidInput:
    return InvalidInput(f"{url!r}: not an address of a server; write it as http://localhost:8000/v1")


def _encodable(text: str) -> str:
    """JSON may escape half of a surrogate pair, which no file and no terminal takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _names_response_format(body: object) -> bool:
    words = server_words(body).casefold()
    return "response_format" in words or "json_schema" in words


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: as a number or as a date; None where it does not, or says neither."""
    stated = headers.get("retry-after", "")
    try:
        wait = float(stated)
    except ValueError:
        wait = _until(stated)
    return None if math.isnan(wait) else max(0.0, wait)


def _until(date: str) -> float:
    """Seconds until then; not a number where it is no date, or none that a calendar has."""
    try:
        when = email.utils.parsedate_tz(date)
        return email.utils.mktime_tz(when) - time.time() if when else math.nan
    except (ValueError, OverflowError):
        return math.nan
