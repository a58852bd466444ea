# What the service uses of Gunicorn 27, which ships no types; types-gunicorn describes version 26.
# tests/test_typings.py compares every name and parameter here with the installed package.

SERVER: str
