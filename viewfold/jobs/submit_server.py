"""A cluster's job server: whether one answers at an address, and the token that it is shown."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from viewfold.errors import InvalidInput

TIMEOUT_S = 10.0
_TOKEN = "RAY_AUTH_TOKEN"
_UNASKED, _REFUSED = 401, 403


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


open_here = build_opener(_Stay).open
"""As `urlopen`, but no redirect is followed: another host would be shown the log-in that is meant for this one."""


def authorization(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header that shows the token, which is looked for where Ray looks; none where there is none, or none wanted.

    Raises:
        InvalidInput: RAY_AUTH_TOKEN_PATH names no file.
    """
    token = _token(environ) if environ.get("RAY_AUTH_MODE", "token").lower() == "token" else ""
    return {"Authorization": f"Bearer {token}"} if token else {}


def check_server(address: str, headers: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> None:
    """Ray's own client would wait without end for a server that takes the call and does not answer.

    Raises:
        InvalidInput: nobody answers, somebody else does, or the token is missing or wrong.
    """
    try:
        request = Request(f"{address}/api/version", headers=dict(headers))
        with open_here(request, timeout=timeout_s) as answer:
            json.load(answer)["ray_version"]
    except HTTPError as error:
        raise InvalidInput(f"{address}: {_refusal(error.code)}") from None
    except OSError as error:
        why = error.reason if isinstance(error, URLError) else error
        raise InvalidInput(
            f"{address}: no job server answers there ({why}); name the cluster's dashboard, such as http://head:8265"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InvalidInput(f"{address}: what answers there is not Ray's; name the cluster's dashboard") from None


def _refusal(status: int) -> str:
    if status == _UNASKED:
        return f"the cluster asks for a token: set {_TOKEN}, or write it to ~/.ray/auth_token"
    if status == _REFUSED:
        return f"the cluster refuses the token: `ray get-auth-token` on its head prints the right one, for {_TOKEN}"
    return f"it answers {status}, so it is not Ray's; name the cluster's dashboard, such as http://head:8265"


def _token(environ: Mapping[str, str]) -> str:
    if token := environ.get(_TOKEN, "").strip():
        return token
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    if named:
        raise InvalidInput(f"RAY_AUTH_TOKEN_PATH={named}: no such file")
    return ""
