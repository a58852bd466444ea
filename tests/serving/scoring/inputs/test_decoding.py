"""A decoding process that has no memory left is gone, and no file is called damaged; warnings with their reasons."""

import os
import pickle
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.support.management import await_
from bench.support.pictures import SAMPLES, encoded, png
from serving.scoring.fork_server import ForkServer
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
        assert decoding.serve(theirs, None) == 1
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
    assert capfd.readouterr().err == ""


def test_a_process_of_the_pool_looks_at_files(tmp_path: Path) -> None:
    """Once one is ready; this process does it before, and where it is the only one."""
    (tmp_path / "a.png").write_bytes(b"12345")
    os.utime(tmp_path / "a.png", (7, 7))
    asked = os.fsencode(f"{tmp_path}/"), [b"a.png", b"none.png"]
    with closing(ForkServer()) as server, closing(decoding.DecoderPool(2, server)) as pool:
        assert pool.stat_files(*asked) is None
        pool.start()
        await_(lambda: pool.stat_files(*asked) is not None)
        found = pool.stat_files(*asked)
        assert found is not None
        assert found.result() == b"5 7\n"
    with closing(ForkServer()) as server, closing(decoding.DecoderPool(1, server)) as pool:
        pool.start()
        assert pool.decode([], "white-on-black").errors == {}
        assert pool.stat_files(*asked) is None


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
