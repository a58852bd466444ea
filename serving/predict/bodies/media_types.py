"""Media types of bodies, of parts of forms and of data URLs, and the right one of a body that declares another."""

from bundle.images.decoding import PARSERS, guess_format, sniff

JSON, NPY, OCTETS, FORM = (
    "application/json",
    "application/x-npy",
    "application/octet-stream",
    "multipart/form-data",
)
NPY_MAGIC = b"\x93NUMPY"
UTF8_BOM = b"\xef\xbb\xbf"

ALIASES = {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp", "image/x-png": "image/png"}
"""Unregistered names that clients send, and the registered ones."""

ANY_IMAGE = frozenset(("image/*", "application/x-image"))
"""Media types of an image file whose format its content decides; SageMaker's clients send the second."""
OPAQUE = frozenset((OCTETS, "application/octetstream", "application/unknown", "binary/octet-stream", FORM))
"""Media types that clients give a file of whatever kind. HTTP libraries for Java and Kotlin name the form's own."""

IMAGES = ", ".join(PARSERS)
ACCEPTED = ", ".join((*PARSERS, FORM, JSON, NPY, OCTETS))

_SEND = "The content looks like {}: send it to POST /predict as that (with curl: -H 'Content-Type: {}'{})."


def canonical(media_type: str) -> str:
    """Return the registered name of a media type, in lower case."""
    media_type = media_type.lower()
    return ALIASES.get(media_type, media_type)


def undeclared(media_type: str) -> bool:
    """Tell whether the type of one file says nothing about its format, which its content then decides."""
    return not media_type or media_type in OPAQUE or media_type in ANY_IMAGE or media_type == "*/*"


def found_in(body: bytes) -> str | None:
    """Return the media type under which a body may be one that is read, by its first bytes; None if there is none."""
    if body.startswith(NPY_MAGIC):
        return NPY
    start = body[:1024].removeprefix(UTF8_BOM).lstrip()
    if start.startswith(b"{"):
        return JSON
    if start.startswith(b"--") and b"content-disposition:" in start.lower():
        return FORM
    return sniff(body)


def remedy(body: bytes) -> str | None:
    """Return what to do about a body of another type than it was declared; None if that type is not known."""
    file = " --data-binary @FILE"
    match found_in(body):
        case None if body.startswith(b"\x89PNG"):
            return _SEND.format(guess_format(body), "image/png", file)
        case None if body.startswith((b"data:image/", b"iVBORw0KGgo")):
            return (
                f'The content looks like base64: send it as {JSON}, {{"instances": ["..."]}}, or decode it.'
            )
        case "multipart/form-data":
            return "The content looks like a form: let the HTTP client set Content-Type; with curl, use -F without -H."
        case "application/json":
            return _SEND.format("JSON", JSON, "")
        case found:
            words = "a .npy file" if found == NPY else "an image file"
            return found and _SEND.format(words, found, file)
