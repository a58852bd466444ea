"""Small scoring jobs: images in every input format, and runs in this process."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bench.support.pictures import png
from bundle.repository import Bundle
from serving.scoring.observer import Observer
from serving.scoring.output.manifest import Outcome
from serving.scoring.run import run
from serving.scoring.settings import ScoreSettings

Images = npt.NDArray[np.uint8]


def digits(count: int, seed: int = 5) -> Images:
    """Return distinct images, `uint8[count, 28, 28]`, light on dark."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 4:24, 4:24] = np.random.default_rng(seed).integers(0, 256, (count, 20, 20), dtype=np.uint8)
    return images


def idx(images: Images) -> bytes:
    """Return images as an IDX file."""
    return b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes() + images.tobytes()


def _idx(path: Path, images: Images) -> None:
    path.write_bytes(idx(images))


def _idx_gz(path: Path, images: Images) -> None:
    path.write_bytes(gzip.compress(idx(images)))


def _npy(path: Path, images: Images) -> None:
    np.save(path, images)


def _npy_flat(path: Path, images: Images) -> None:
    np.save(path, images.reshape(len(images), 784))


def _npz(path: Path, images: Images) -> None:
    np.savez(path, x_test=images, y_test=np.zeros(len(images), np.uint8))


def _npz_packed(path: Path, images: Images) -> None:
    np.savez_compressed(path, x_test=images)


def folder(path: Path, images: Images) -> None:
    """Write PNG files whose names sort in the images' order."""
    for place, image in enumerate(images):
        file = path / f"{place // 100:03}" / f"{place:05}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image))


def _list(path: Path, images: Images) -> None:
    files = path.with_suffix(".files")
    folder(files, images)
    path.write_text("".join(f"{file}\n" for file in sorted(files.rglob("*.png"))))


def _tar(path: Path, images: Images) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for place, image in enumerate(images):
            for name, data in ((f"{place:05}.png", png(image)), (f"{place:05}.cls", b"7")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _zip(path: Path, images: Images) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, image in enumerate(images):
            archive.writestr(f"{place:05}.png", png(image))


def _parquet_files(path: Path, images: Images) -> None:
    pq.write_table(pa.table({"image": [png(image) for image in images]}), path, row_group_size=70)


def _parquet_structs(path: Path, images: Images) -> None:
    rows = [{"bytes": png(image), "path": "x.png"} for image in images]
    table = pa.table({"image": rows, "label": pa.array(range(len(rows)), pa.int64())})
    pq.write_table(table, path, row_group_size=33)


def _parquet_numbers(path: Path, images: Images) -> None:
    rows = [image.reshape(-1).tolist() for image in images]
    pq.write_table(pa.table({"pixels": pa.array(rows, pa.list_(pa.uint8()))}), path, row_group_size=50)


def _parquet_nested(path: Path, images: Images) -> None:
    kind = pa.list_(pa.list_(pa.float64(), 28), 28)
    pq.write_table(pa.table({"pixels": pa.array(images.tolist(), kind)}), path)


KINDS: dict[str, tuple[str, Callable[[Path, Images], None]]] = {
    "idx": ("t10k-images-idx3-ubyte", _idx),
    "idx, gzip": ("t10k-images-idx3-ubyte.gz", _idx_gz),
    "idx, by content": ("images.data", _idx),
    "npy": ("images.npy", _npy),
    "npy of 784": ("images.npy", _npy_flat),
    "npz": ("images.npz", _npz),
    "npz, compressed": ("images.npz", _npz_packed),
    "folder": ("images", folder),
    "list": ("images.txt", _list),
    "tar": ("images.tar", _tar),
    "tar, gzip": ("images.tar.gz", _tar),
    "zip": ("images.zip", _zip),
    "parquet of files": ("images.parquet", _parquet_files),
    "parquet of structs": ("images.parquet", _parquet_structs),
    "parquet of numbers": ("images.parquet", _parquet_numbers),
    "parquet of nested numbers": ("images.parquet", _parquet_nested),
}
"""Every input format: a file name, and a function that writes images to it."""


def settings(
    bundle: Bundle, given: Path | str | Sequence[str], output: Path, **options: Any
) -> ScoreSettings:
    """Return a job's settings, by default one decoding process, the CPU, and parts of 64 rows."""
    places = (str(given),) if isinstance(given, Path | str) else tuple(given)
    defaults = {"model": bundle.path.parent, "provider": "cpu", "workers": 1, "part_rows": 64}
    return ScoreSettings(input=places, output=output, **(defaults | options))


def score(
    bundle: Bundle,
    given: Path | str | Sequence[str],
    output: Path,
    *,
    environment: Mapping[str, str] | None = None,
    stdin: Any = None,
    **options: Any,
) -> Outcome:
    """Run a job in this process."""
    asked = settings(bundle, given, output, **options)
    return run(asked, Observer(), environment=environment or {}, stdin=stdin)


def parts(output: Path) -> dict[str, bytes]:
    """Return the parts of an output by name."""
    return {path.name: path.read_bytes() for path in sorted(output.glob("part-*"))}


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Return every row of an output, read where possible by another library than the writer's."""
    paths = [output] if output.is_file() else sorted(output.glob("part-*"))
    found: list[dict[str, Any]] = []
    for path in paths:
        if path.suffix == ".parquet":
            found += pq.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                found += csv.DictReader(file)
        else:
            found += [json.loads(line) for line in path.read_text().splitlines()]
    return found
