"""Arrays of other sizes and colours, where the user asks for resizing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.images.resizing import resize
from imagesets.errors import DataError
from imagesets.image_set import open_set
from imagesets.source import Options

RANDOM = np.random.default_rng(0)


def pixels_of(path: Path, options: Options) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return all images of the only source of a file."""
    (source,) = open_set(str(path), options).sources
    found = np.array(source.take(0, source.count).pixels)  # type: ignore[union-attr]
    source.close()
    return found


@pytest.mark.parametrize("how", ["fit", "pad", "mnist"])
def test_arrays_of_other_sizes_are_resized_as_files_are(how: str, tmp_path: Path) -> None:
    """Each image by itself, in NumPy's files and IDX."""
    images = RANDOM.integers(0, 256, (5, 40, 30), np.uint8)
    expected = [resize(image, how) for image in images]  # type: ignore[arg-type]
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images=images)
    header = bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes()
    (tmp_path / "a-idx3-ubyte").write_bytes(header + images.tobytes())
    for name in ("a.npy", "a.npz", "a-idx3-ubyte"):
        options = Options(resize=how)  # type: ignore[arg-type]
        np.testing.assert_array_equal(pixels_of(tmp_path / name, options), expected)
        with pytest.raises(DataError, match="--resize"):
            open_set(str(tmp_path / name), Options())


def test_colours_become_gray_as_those_of_files(tmp_path: Path) -> None:
    """By luma; opacity is over black."""
    images = RANDOM.integers(0, 256, (4, 28, 28, 3), np.uint8)
    np.save(tmp_path / "a.npy", images)
    expected = [np.array(Image.fromarray(image).convert("L")) for image in images]
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.npy", Options(resize="fit")), expected)
    opaque = np.concatenate([images, np.full((4, 28, 28, 1), 255, np.uint8)], axis=3)
    np.save(tmp_path / "b.npy", opaque)
    np.testing.assert_array_equal(pixels_of(tmp_path / "b.npy", Options(resize="fit")), expected)


def test_floats_are_judged_before_they_are_resized(tmp_path: Path) -> None:
    """0..1 of another size is what the bytes of it are."""
    images = RANDOM.integers(0, 256, (5, 56, 56), np.uint8)
    np.save(tmp_path / "bytes.npy", images)
    np.save(tmp_path / "floats.npy", images / np.float32(255))
    options = Options(resize="pad")
    np.testing.assert_array_equal(
        pixels_of(tmp_path / "floats.npy", options), pixels_of(tmp_path / "bytes.npy", options)
    )
