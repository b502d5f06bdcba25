"""`GET /status`: a page that shows what the server does now. Its files come with the package; it loads nothing from elsewhere,
holds no data of its own, and draws what `/status/data` (pulse) tells.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import Response

from luthier.server.errors import ApiError

FILES = {
    "status.html": "text/html; charset=utf-8",
    "status.css": "text/css; charset=utf-8",
    "status.js": "text/javascript; charset=utf-8",
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}


def page(name: str) -> Response:
    """One of the page's files. Raises ApiError 404 for any other name."""
    if name not in FILES:
        raise ApiError(404, "unknown_route", "The status page has no such file.")
    content = files("luthier.server").joinpath("web", name).read_bytes()
    return Response(content, headers={"content-type": FILES[name], **HEADERS})
