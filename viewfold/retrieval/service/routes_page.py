"""The page at `/`: plain files of the package, served under a policy that lets them load nothing from elsewhere."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

FOLDER = Path(__file__).with_name("page")
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""For each kind of file that is served, its media type; other files in the folder are not."""

SECURITY = {
    # Labels and keys of any index reach the page: no inline code, no markup from strings, nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


router = APIRouter(include_in_schema=False)
"""The page and its files; they hold no data of an index, so they ask for no key."""

_FILES = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA}


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    return _answer(request, "index.html")


@router.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """A file that the page loads."""
    if name not in _FILES:
        raise HTTPException(404, "the page has no such file")
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    """The file, or 304 where the browser has it: always asked for anew, so that an upgrade shows at once."""
    data = _FILES[name]
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {**SECURITY, "ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("If-None-Match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=MEDIA[Path(name).suffix], headers=headers)
