"""Dictionary of request fragments: seeds of the targets, and strategies of the tests."""

PEER = ("203.0.113.7", 40000)

HEAD_PIECES = [
    *(b"POST ", b"GET ", b"post ", b"/predict", b"/v2/models/m/infer?a=%20b", b"//predict", b"/a#b", b"*"),
    *(b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b","),
    *(b"Host: a", b"host:", b"Content-Length: 3", b"Content-Length: +3", b"content-length:\t12 "),
    *(b"Content-Type: image/png", b"Connection: close", b"Connection: keep-alive, close", b"X_Y: 1"),
    *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Upgrade: h2c", b"X-Forwarded-Proto: https"),
    *(b"X-Forwarded-Ssl: on", b"X: \xff\x80", b"X:", b"Y: a\x7fb", b"Z :1", b" folded"),
]
"""What heads, good and bad, are made of."""

ORDINARY_HEAD = (
    b"POST /predict?top=3 HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 12\r\n\r\n"
)

CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\n\r\n"

CHUNK_PIECES = [
    *(b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\n", b"\r\n", b"\n", b"\r", b"a", b"05", b"A\r\n0123456789\r\n"),
    *(b";name", b';name="a;b"', b"; name = value", b";", b" ", b"\t", b"-", b"+", b"0x", b"_"),
    *(b"X-Checksum: 1\r\n", b"Host: b\r\n", b"Content-Length: 1\r\n", b"X : 1\r\n", b"hello"),
]
"""What chunked bodies, good and bad, are made of."""
