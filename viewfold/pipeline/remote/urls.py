"""Addresses of remote shards: which schemes are read, what may be shown of an address, what a shard is called.

Strings only; nothing here asks a server.
"""

import re
from pathlib import PurePosixPath
from urllib.parse import unquote

from viewfold.errors import InvalidInput

PACKAGES = {
    "gs": "gcsfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "memory": "fsspec",
    "s3": "s3fs",
}
"""Schemes that are read, and the package that each one needs."""

CREDENTIALS = {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login` and the machine's account",
    "hf": "HF_TOKEN and `hf auth login`",
    "http": "the URL (user:password@) and ~/.netrc",
    "https": "the URL (user:password@) and ~/.netrc",
    "memory": "no place",
    "s3": "the AWS_ variables, ~/.aws and the machine's role (FSSPEC_S3_ANON=true for a public bucket)",
}
"""Where the package of each scheme looks for them."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/\s'\"]*@")
_QUERY = re.compile(r"\?[^\s'\"<>()\]]+")
_LONGEST_TEXT = 300


def scheme(url: str) -> str:
    """The scheme of a URL, in lower case: a key of `PACKAGES`.

    Raises:
        InvalidInput: a scheme that is not read.
    """
    match = _SCHEME.match(url)
    name = match[1].lower() if match else re.split(r":", url, maxsplit=1)[0]
    if match is None or name not in PACKAGES:
        known = ", ".join(f"{known}://" for known in sorted([*PACKAGES, "file"]))
        raise InvalidInput(
            f"{shown(url)}: {name}: is not a scheme that shards are read from; use a path or one of {known}"
            " (pip install 'viewfold[remote]')"
        )
    return name


def shown(url: str) -> str:
    """A URL as messages may print it: without user, password and query, which hold secrets."""
    # A colon tells user:password@ from the @revision of hf://name@revision/; in web addresses any user goes.
    user = _USER.search(url)
    if user and (":" in user[0] or url.lower().startswith("http")):
        url = _USER.sub("", url, count=1)
    return _QUERY.sub("?...", url)


def without_secrets(text: str) -> str:
    """Another library's message as one line, with users, passwords and queries of the URLs in it left out."""
    line = _QUERY.sub("?...", _USER.sub("", " ".join(text.split())))
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}..."


def file_name(location: str) -> str:
    """Last part of a path or URL: `a.tar`. That of a web address is decoded and has no query."""
    if location.lower().startswith(("http://", "https://")):
        location = unquote(re.split(r"[?#]", location, maxsplit=1)[0])
    return PurePosixPath(location).name
