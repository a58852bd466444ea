"""URLs of object stores: which texts are such, which are accepted, and how messages show them."""

import re
from pathlib import Path
from typing import Any

from common.errors import one_line

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL | re.IGNORECASE)
_CONTAINER = re.compile(r"(abfss?|az)://[^:/@]+@[^:/@]+(/|$)")
"""`abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/...`: what stands before the @ is no user."""
_CREDENTIALS = re.compile(r"(?<=://).*@", re.DOTALL)


def is_store_url(text: object) -> bool:
    """Tell whether a text is a URL of an object store, not a path and not a web server's address."""
    match = _URL.match(text) if isinstance(text, str) else None
    return match is not None and match[1].lower() not in ("http", "https")


def shown_store_url(url: str) -> str:
    """Return a store's URL as messages show it: without user name, password, query and fragment."""
    shown = url.partition("?")[0].partition("#")[0].rstrip("/")
    return shown if _CONTAINER.match(shown) else _CREDENTIALS.sub("", shown)


def check_store_url(url: str) -> str:
    """Return a store's URL without a slash at its end.

    Raises:
        ValueError: it has credentials, a query, a fragment or a wildcard, chains file systems, or names nothing.
    """
    shown = shown_store_url(url)
    match = _URL.fullmatch(url)
    if match is None or not is_store_url(url) or not match[2].strip("/") or not url.isprintable():
        raise ValueError(
            f"{one_line(shown)!r} is no URL of an object store: give s3://BUCKET/PATH, for example"
        )
    if "::" in url or any(part in ("..", ".") for part in match[2].split("/")):
        raise ValueError(f"{shown} may have no '::', '.' or '..': give the plain URL")
    if set(match[2]) & set("?#*[]") or ("@" in match[2] and not _CONTAINER.match(url)):
        raise ValueError(
            f"{shown} was given with a user name, a query or a wildcard, which a store's URL may not have: leave "
            "credentials to the environment (workload identity, or the provider's variables)"
        )
    return url.rstrip("/")


def path_or_url(value: Any) -> Any:
    """Return a setting's text as the checked URL of a store, `str`, or as a `Path`; anything else as it is.

    Raises:
        ValueError: as `check_store_url`.
    """
    if not isinstance(value, str):
        return value
    return check_store_url(value) if is_store_url(value) else Path(value)
