"""Who may ask, and what a browser is told.

- `tokens.py`: bearer tokens (RFC 6750), from a file of hashes
- `response_headers.py`: fields of pages that protect, and cross-origin resource sharing
"""
