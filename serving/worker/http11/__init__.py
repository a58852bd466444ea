"""HTTP/1.1 (RFC 9112), from bytes to requests and from responses to bytes, without sockets and threads.

In the order of a request:

- `input_buffer.py`: bytes that have arrived and are not parsed yet, and the end of the request head in them
- `request_head.py`: the parsers of a request head: the fast path, and Gunicorn's for every other head
- `request_body.py`, `chunked.py`: a body that arrives in pieces, framed by Content-Length or in chunks
- `response.py`: the bytes of a response
- `output_buffer.py`: bytes that are written and that the client has not read yet
"""
