"""Authentication of requests, and response header fields that protect browsers.

- `tokens.py`: bearer tokens (RFC 6750), from a file of hashes
- `response_headers.py`: content security policy and the like for pages, and cross-origin resource sharing (CORS)
"""
