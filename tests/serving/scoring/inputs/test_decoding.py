"""A decoding process that has no memory left is gone, and no file is called damaged; warnings with their reasons."""

import os
import pickle
import socket
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.support.pictures import SAMPLES, encoded, png
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
        ours.sendall(pickle.dumps(([SAMPLES["image/gif"]], "white-on-black", None)))
        assert decoding.serve(theirs, None, [os.memfd_create("images")]) == 1
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("count", [4, 100])
def test_blank_files_are_warned_of_with_the_files_own_reason(count: int) -> None:
    """Few files or many; what cannot be read has an error and no warning."""
    drawing = np.zeros((28, 28, 4), np.uint8)
    drawing[4:24, 14, 3] = 255
    files = [SAMPLES["image/png"]] * count
    files[1] = encoded(Image.fromarray(drawing), "PNG")
    files[2] = b"no image"
    files[3] = png(np.full((28, 28), 255, np.uint8))
    found = decoding.decode_files(files, "white-on-black")
    assert [*found.errors] == [2]
    assert sorted(found.warnings) == [1, 3]
    assert "in the transparency alone" in found.warnings[1]
    assert found.warnings[3].startswith("looks blank: its darkest")
