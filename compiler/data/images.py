"""Images with labels: Fashion-MNIST, scikit-learn's digits, an .npz of one's own.

Fashion-MNIST keeps its own test set; of the others every tenth image is held out. Fashion-MNIST
needs only the standard library, the others need numpy. Every failure is a `DataError`.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zipfile
import zlib
from array import array
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from modnorm.data.fetch import DataError, cache_folder, keep, reason, run, scratch_folder

FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_SYSTEM = Path("/usr/share/datasets/fashion-mnist")
# sha256 of what is inside each .gz: another release of the package may compress it differently
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class Examples:
    """`count` inputs (`x`: uint8 or float32) and their class numbers (`y`: int64), native order."""

    count: int
    x: bytes
    y: bytes


@dataclass(frozen=True)
class Images:
    """Inputs of one `shape`, each with one of `classes` labels. `dtype` is "uint8" or "float32"."""

    name: str
    shape: tuple[int, ...]
    classes: int
    dtype: str
    train: Examples
    held_out: Examples
    sha256: str


def parse_idx(content: bytes, name: str) -> tuple[tuple[int, ...], bytes]:
    """The shape and the bytes of an idx file of unsigned bytes. Raises DataError."""
    rank = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * rank
    if not rank or len(content) < start:
        raise DataError(f"{name} is no idx file of unsigned bytes")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    if len(content) != start + prod(shape):
        raise DataError(
            f"{name} should hold {prod(shape):,} values but holds {len(content) - start:,}"
        )
    return shape, content[start:]


def read_fashion(folder: Path) -> dict[str, bytes] | None:
    """The four files' contents, or None where one is missing or has another checksum."""
    contents = {}
    for name, sha256 in FASHION_SHA256.items():
        try:
            content = gzip.decompress((folder / f"{name}.gz").read_bytes())
        except (OSError, EOFError, zlib.error):
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        contents[name] = content
    return contents


def fetch_fashion(folder: Path) -> Path:
    """Downloads Debian's package into `folder` and unpacks it there, without root."""
    where = cache_folder() / "fashion-mnist"
    otherwise = f"or put its four idx files (….gz) into {where}, or give an .npz with x and y"
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise DataError(
            f"{FASHION_PACKAGE} comes from Debian's apt-get, which is not here; {otherwise}"
        )
    done, output = run(["apt-get", "download", FASHION_PACKAGE], folder)
    package = next(iter(folder.glob(f"{FASHION_PACKAGE}_*.deb")), None)
    if not done or package is None:
        raise DataError(
            f"apt-get download {FASHION_PACKAGE} failed ({reason(output)}); "
            f"run apt-get update first, {otherwise}"
        )
    done, output = run(["dpkg", "-x", str(package), str(folder)], folder)
    if not done:
        raise DataError(f"dpkg cannot unpack {package.name} ({reason(output)}); {otherwise}")
    return folder / FASHION_SYSTEM.relative_to("/")


def fashion_mnist() -> Images:
    """Zalando's 28 x 28 images of ten kinds of clothing, with their own test set held out."""
    cached = cache_folder() / "fashion-mnist"
    contents = read_fashion(cached) or read_fashion(FASHION_SYSTEM)
    if contents is None:
        with scratch_folder() as folder:
            unpacked = fetch_fashion(Path(folder))
            contents = read_fashion(unpacked)
            if contents is None:
                raise DataError(f"{FASHION_PACKAGE} holds other files than expected (checksums)")
            for name in FASHION_SHA256:
                keep(cached / f"{name}.gz", (unpacked / f"{name}.gz").read_bytes())
    halves = []
    for part in ("train", "t10k"):
        shape, x = parse_idx(contents[f"{part}-images-idx3-ubyte"], f"{part}-images")
        _, y = parse_idx(contents[f"{part}-labels-idx1-ubyte"], f"{part}-labels")
        labels = array("q", list(y))  # an array takes bytes for memory, and not for numbers
        halves.append(Examples(shape[0], x, labels.tobytes()))
    digest = hashlib.sha256("".join(FASHION_SHA256.values()).encode()).hexdigest()
    return Images("fashion-mnist", shape[1:], 10, "uint8", halves[0], halves[1], digest)


def digits() -> Images:
    """scikit-learn's 8 x 8 images of handwritten digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits come with scikit-learn: pip install scikit-learn") from error
    found = load_digits()
    return split_tenth("digits", found.images.astype("uint8"), found.target)


def from_npz(path: Path) -> Images:
    """An .npz of one's own: `x` (count, …) numbers, `y` (count) class numbers from 0."""
    try:
        import numpy as np
    except ImportError as error:
        raise DataError("reading an .npz needs numpy: pip install numpy") from error
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except KeyError as error:
        raise DataError(f"{path} has to hold two arrays, x and y: {error.args[0]}") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz: {error}") from error
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"{path}: x has the shape {x.shape} and y {y.shape}, "
            "but they have to be (count, …) and (count,)"
        )
    if len(y) < 20 or x[0].size == 0:
        raise DataError(f"{path}: {len(y)} inputs of shape {x.shape[1:]} are too few to train on")
    if y.dtype.kind not in "iu" or y.min() < 0 or int(y.max()) >= 2**31:
        raise DataError(f"{path}: y has to hold class numbers, integers from 0")
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path}: x has to hold numbers, not {x.dtype}")
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    if not np.isfinite(x).all():
        raise DataError(f"{path}: x holds values that are not finite")
    return split_tenth(path.name, x, y)


def split_tenth(name: str, x: Any, y: Any) -> Images:
    """Holds every tenth input out (numpy arrays in)."""
    import numpy as np

    x, y = np.ascontiguousarray(x), np.asarray(y).astype(np.int64)
    held = np.arange(len(y)) % 10 == 9
    digest = hashlib.sha256(str((x.shape, x.dtype.name)).encode() + x.tobytes() + y.tobytes())
    train, held_out = (
        Examples(int(part.sum()), x[part].tobytes(), y[part].tobytes()) for part in (~held, held)
    )
    classes = int(y.max()) + 1
    return Images(name, x.shape[1:], classes, x.dtype.name, train, held_out, digest.hexdigest())
