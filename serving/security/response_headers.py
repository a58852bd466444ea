"""Response header fields for security: those of HTML pages, and cross-origin resource sharing (CORS)."""

from collections.abc import Mapping

from serving.settings import ServiceSettings

EVERY_RESPONSE = {"X-Content-Type-Options": "nosniff"}
"""A problem document can quote the request; no browser may take it for a page."""

PAGE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}
"""The fields of HTML pages: a page may load only the service's own files, and cannot be framed."""

EXPOSED = "Inference-Header-Content-Length, Retry-After, Server-Timing, WWW-Authenticate, X-Request-ID"
"""Response fields that scripts of another origin may read."""
REQUEST_FIELDS = (
    "Authorization, Content-Encoding, Content-Type, Inference-Header-Content-Length, X-Request-ID, "
    "X-Request-Timeout-Ms, traceparent, tracestate"
)
"""Request fields that they may send."""
PREFLIGHT_SECONDS = 600
EVERY_ORIGIN = "*"


class Headers:
    """The security fields of every response."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._origins = frozenset(settings.cors_origins)

    def of(self, request: Mapping[str, str]) -> dict[str, str]:
        """Return the fields of a response, unless the request is a preflight.

        Args:
            request: the request's fields, by name in lower case.
        """
        if not self._origins:
            return EVERY_RESPONSE
        return EVERY_RESPONSE | self._sharing(request.get("origin"))

    def of_preflight(self, request: Mapping[str, str], allow: str) -> dict[str, str]:
        """Return the fields of the response to an OPTIONS request.

        Source: the Fetch standard, section 3.3 (CORS protocol). To deny a request the service omits the fields,
        and the browser blocks it.

        Args:
            request: the request's fields, by name in lower case.
            allow: the methods of the path, as in the field `Allow`.
        """
        fields = self.of(request)
        if "Access-Control-Allow-Origin" not in fields or "access-control-request-method" not in request:
            return fields
        return fields | {
            "Access-Control-Allow-Methods": allow,
            "Access-Control-Allow-Headers": REQUEST_FIELDS,
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }

    def _sharing(self, origin: str | None) -> dict[str, str]:
        """Return the CORS fields for an origin. Credentials (cookies) are never allowed: the service uses none."""
        if EVERY_ORIGIN in self._origins:
            return {"Access-Control-Allow-Origin": EVERY_ORIGIN, "Access-Control-Expose-Headers": EXPOSED}
        if origin not in self._origins:  # a cache must not reuse this response for an allowed origin
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": str(origin),
            "Access-Control-Expose-Headers": EXPOSED,
            "Vary": "Origin",
        }
