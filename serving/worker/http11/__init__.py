"""HTTP/1.1 (RFC 9112) between bytes and requests, without a socket and without a thread.

- `input_buffer.py`: what has arrived and is not read yet; `output_buffer.py`: what is written and not taken yet
- `request_head.py`: from the bytes of a request head to what it says
- `request_body.py`, `chunked.py`: a body on its way, framed by its length or in chunks
- `response.py`: from a response to its bytes
"""
