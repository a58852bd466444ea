"""Forms: the same files for every chunk size of the decoder, and no exceptions except problems.

An input is the content type, a line feed, and the body.
"""

from bench.fuzzing.words import by_words
from bench.support.pictures import a_digit, png
from bench.support.processes import Part, form
from serving.errors import ProblemError
from serving.predict.bodies import multipart
from serving.predict.bodies.multipart import Upload, read_files

MOST_FILES = 4
CHUNKS = (1 << 16, 1, 7)
MOST_HEADER_BYTES = 16 << 10
"""The limit on a part's header, which is only looked at where a chunk ends: inputs are shorter."""


def _input(body: bytes, content_type: str) -> bytes:
    return content_type.encode() + b"\n" + body


_IMAGE = Part(png(a_digit())[:100])
SEEDS = [
    _input(*form(_IMAGE)),
    _input(*form(_IMAGE, Part(b"\r\n--\r\n--b"), Part(b"", filename=None, content_type="image/png"))),
    _input(*form(*[Part(b"x")] * MOST_FILES)),
    _input(*form(Part(b"x", filename=None, content_type=None))),
    b'multipart/form-data; boundary=b\n--b\r\nContent-Disposition: form-data; name="i"; filename="f"\r\n\r\ncut',
    b'multipart/form-data; boundary="b c"\n--b c\nContent-Disposition: form-data; filename=f\n\n\r\n\r\n--b c--',
    b"image/png\nabc",
]

mutate = by_words([word for seed in SEEDS for word in seed.splitlines(keepends=True)] + [b"\r\n", b"--"])


def feed(data: bytes) -> None:
    """Parse a body with several chunk sizes."""
    data = data[:MOST_HEADER_BYTES]
    content_type, _, body = data.partition(b"\n")
    found = [taken(content_type.decode("latin-1"), body, size) for size in CHUNKS]
    if b"\r\r" not in body:  # which Werkzeug takes for an empty line, and "\r\r\n" too
        assert all(each == found[0] for each in found), f"it depends on the decoder's chunks: {found}"
    if not isinstance(found[0], str):
        assert 0 < len(found[0]) <= MOST_FILES
        assert all(upload.data in body for upload in found[0])
        assert sum(len(upload.data) for upload in found[0]) <= len(body)


def taken(content_type: str, body: bytes, chunk: int) -> list[Upload] | str:
    """Return the files, or the type of the error."""
    multipart.CHUNK_BYTES = chunk
    try:
        return read_files(content_type, body, max_files=MOST_FILES)
    except ProblemError as error:
        assert error.status < 500
        assert error.remedy
        return type(error).__name__
