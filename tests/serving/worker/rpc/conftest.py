"""Clients of gRPC, and the processes behind them, without sockets."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from bundle.repository import Bundle
from tests.serving.worker.rpc.peer import Peer


@pytest.fixture
def start(bundle: Bundle) -> Iterator[Callable[..., Peer]]:
    """Return what makes a client and the process behind it."""
    with ExitStack() as stack:

        def begin(**settings: Any) -> Peer:
            peer = Peer(bundle.path.parent, **settings)
            stack.callback(peer.close)
            return peer

        yield begin


@pytest.fixture
def peer(start: Callable[..., Peer]) -> Peer:
    """Return a client of a process with the default settings."""
    return start()
