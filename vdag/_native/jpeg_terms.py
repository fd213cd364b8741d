"""What `jpeg.pyx` and `reference_jpeg.py` share: limits, options, and the values they return."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from vdag.errors import ConfigError, ImageError, NativeUnavailable

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    UInt8Image: TypeAlias = NDArray[np.uint8]
    Data: TypeAlias = bytes | bytearray | memoryview | UInt8Image
    Room: TypeAlias = bytearray | memoryview | UInt8Image

__all__ = [
    "MAX_PIXELS",
    "MAX_SIDE",
    "MAX_THREADS",
    "SUBSAMPLINGS",
    "Info",
    "Library",
    "check_decoding",
    "check_encoding",
    "check_pixels",
    "check_sides",
    "check_threads",
    "find_library",
    "library_version",
]

MAX_PIXELS: Final = 64 << 20  # of a picture that is read, unless the caller says otherwise
MAX_SIDE: Final = 65500  # libjpeg's JPEG_MAX_DIMENSION
MAX_THREADS: Final = 64
SUBSAMPLINGS: Final = ("444", "422", "420", "gray")  # that can be written; order of enum TJSAMP


class Info(NamedTuple):
    """What the header of a JPEG says.

    Attributes:
        width: pixels per row.
        height: rows.
        components: 1 (gray), 3 (colour) or 4 (CMYK).
        subsampling: "444", "422", "420", "gray", "440", "411", "441", or "unknown".
    """

    width: int
    height: int
    components: int
    subsampling: str


class Library(NamedTuple):
    """The library that codes.

    Attributes:
        path: of the shared library; "opencv" for the reference.
        version: its own, as "3.0.4"; "unknown" if it does not carry one.
        api: "tj3" (TurboJPEG 3), "tj" (2.0 to 2.1), or "opencv".
    """

    path: str
    version: str
    api: str


def check_decoding(reduce: int, max_pixels: int) -> None:
    """Raise ConfigError unless the options of decoding have a meaning."""
    if reduce not in (1, 2, 4, 8):
        raise ConfigError(f"reduce of {reduce} is none of 1, 2, 4, 8")
    if max_pixels < 1:
        raise ConfigError(f"max_pixels of {max_pixels} is less than 1")


def check_encoding(quality: int, subsampling: str) -> int:
    """Return the number of a subsampling, or raise ConfigError if an option has no meaning."""
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality of {quality} is outside 1..100")
    if subsampling not in SUBSAMPLINGS:
        raise ConfigError(f"subsampling of {subsampling!r} is none of {', '.join(SUBSAMPLINGS)}")
    return SUBSAMPLINGS.index(subsampling)


def check_threads(threads: int) -> None:
    """Raise ConfigError unless a batch can be run on so many threads."""
    if not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads of {threads} is outside 1..{MAX_THREADS}")


def check_sides(width: int, height: int) -> None:
    """Raise ImageError unless a JPEG can have this size."""
    if width < 1 or height < 1:
        raise ImageError(f"picture of {width} x {height} pixels is empty")
    if width > MAX_SIDE or height > MAX_SIDE:
        raise ImageError(f"picture of {width} x {height} pixels exceeds side {MAX_SIDE}")


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError if a picture is larger than the caller takes."""
    if width * height > max_pixels:
        raise ImageError(f"picture of {width} x {height} pixels exceeds max_pixels {max_pixels}")


def find_library(load: Callable[[str], str]) -> str:
    """Load the first libturbojpeg that can be used, and return what `load` says of it.

    Args:
        load: loads a library by path or name; raises OSError if it cannot be used.

    Raises:
        NativeUnavailable: there is none. One that VDAG_TURBOJPEG names is used or an error: no
            other is tried.
    """
    named = os.environ.get("VDAG_TURBOJPEG")
    for path in [named] if named else _paths():
        try:
            return load(path)
        except OSError as err:
            if named:
                raise NativeUnavailable(
                    f"VDAG_TURBOJPEG names {named}, which is no usable libturbojpeg: {err}"
                ) from err
    raise NativeUnavailable(
        "libturbojpeg is not found: install the system's, or pip install '.[turbojpeg]' in the "
        "checkout, or name a file in VDAG_TURBOJPEG"
    )


def _paths() -> Iterator[str]:
    """Yield where the library may be, the system's first."""
    yield "libturbojpeg.so.0"  # a distribution's, wherever the loader's cache has it
    yield "libturbojpeg.so"
    yield "/usr/lib/aarch64-linux-gnu/libturbojpeg.so.0"
    yield "/usr/lib/x86_64-linux-gnu/libturbojpeg.so.0"
    yield "/opt/libjpeg-turbo/lib64/libturbojpeg.so.0"  # libjpeg-turbo's own packages
    # PyPI's `turbojpeg` brings the library in a folder beside its module; the module itself is
    # not wanted, so it is located and never imported.
    spec = importlib.util.find_spec("turbojpeg")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "turbojpeg.libs"
        yield from sorted(str(path) for path in folder.glob("libturbojpeg*.so*"))


def library_version(path: str) -> str:
    """Tell the version of a libturbojpeg; the API does not, but every build has it as text."""
    found = re.search(rb"libjpeg-turbo version (\d+(?:\.\d+)+)", Path(path).read_bytes())
    return found[1].decode() if found else "unknown"
