"""A decoding process that has no memory left is gone, and no file is called damaged."""

import pickle
import socket
from typing import Any

import pytest

from bench.support.pictures import SAMPLES
from serving.scoring.inputs import decoding


def exhausted(*_: Any) -> Any:
    """Fail as everything does that asks for memory when there is none."""
    raise MemoryError


def test_a_decoding_process_without_memory_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its parent says that it is gone, and what to do; a traceback would say less."""
    monkeypatch.setattr(decoding, "decode_files", exhausted)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pickle.dumps(([SAMPLES["image/gif"]], "white-on-black")))
        assert decoding._serve(theirs) == 1
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    assert capfd.readouterr().err == ""
