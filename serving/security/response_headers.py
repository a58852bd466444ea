"""Header fields that protect: those of pages, and cross-origin resource sharing (CORS)."""

from collections.abc import Mapping

from serving.settings import ServiceSettings

EVERY_ANSWER = {"X-Content-Type-Options": "nosniff"}
"""A problem document can repeat a client's words; no browser may take it for a page."""

PAGE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}
"""What HTML is answered with: it may load only its own files, and nobody may frame it."""

EXPOSED = "Inference-Header-Content-Length, Retry-After, Server-Timing, WWW-Authenticate, X-Request-ID"
"""Response fields that a page of another origin may read."""
REQUEST_FIELDS = (
    "Authorization, Content-Encoding, Content-Type, Inference-Header-Content-Length, X-Request-ID, "
    "X-Request-Timeout-Ms, traceparent, tracestate"
)
"""Request fields that it may send."""
PREFLIGHT_SECONDS = 600
EVERY_ORIGIN = "*"


class Headers:
    """The fields that every answer gets beside its own."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._origins = frozenset(settings.cors_origins)

    def of(self, request: Mapping[str, str]) -> dict[str, str]:
        """Return the fields of an answer that is not a preflight's.

        Args:
            request: the request's fields, by name in lower case.
        """
        if not self._origins:
            return EVERY_ANSWER
        return EVERY_ANSWER | self._sharing(request.get("origin"))

    def of_preflight(self, request: Mapping[str, str], allow: str) -> dict[str, str]:
        """Return the fields of the answer to an OPTIONS request.

        Source: the Fetch standard, section 3.3 (CORS protocol). What is not allowed is not refused:
        the fields are left out, and the browser refuses it.

        Args:
            request: the request's fields, by name in lower case.
            allow: the methods that the path answers, as in the field `Allow`.
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
        """Return the CORS fields for an origin. Cookies are never allowed: the service has none."""
        if EVERY_ORIGIN in self._origins:
            return {"Access-Control-Allow-Origin": EVERY_ORIGIN, "Access-Control-Expose-Headers": EXPOSED}
        if origin not in self._origins:  # a cache may not give this answer to an origin that is allowed
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": str(origin),
            "Access-Control-Expose-Headers": EXPOSED,
            "Vary": "Origin",
        }


def merge(into: dict[str, str], fields: Mapping[str, str]) -> None:
    """Put fields into an answer's own; what varies, varies by both."""
    if "Vary" not in into:
        into.update(fields)
        return
    for name, value in fields.items():
        if name == "Vary" and (varies := into.get("Vary")):
            parts = [part.strip() for part in varies.split(",")]
            value = varies if value in parts else f"{varies}, {value}"  # noqa: PLW2901
        into[name] = value
