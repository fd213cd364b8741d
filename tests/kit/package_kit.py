"""Task packages as callers send them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

BOUNDARY = "vdag-test-boundary"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
#: Registers nothing.
CODE = "x = 1\n"
#: Registers the task `density`, and says when it has been run.
DENSITY = """
import pathlib
import vdag

with open({marker!r}, "a") as file:
    file.write("run\\n")

@vdag.task(outputs=["density"])
def density(image):
    return {{"density": float(image.mean())}}
"""


def zip_of(files: Mapping[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return an archive with these files."""
    return zip_of_entries(
        [(zipfile.ZipInfo(name), content) for name, content in files.items()], method
    )


def zip_of_entries(
    entries: Iterable[tuple[zipfile.ZipInfo, str | bytes]], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """Return an archive with entries as they are given; names may be there twice."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for entry, content in entries:
            archive.writestr(entry, content, method)
    return data.getvalue()


ZIP = zip_of({"density.py": CODE})


def task_json(name: str = "crowd", **changes: Any) -> bytes:
    """Return the `task_json` of a package whose only stage is `density`."""
    stages = {"density": {"inputs": ["image"], "outputs": ["density"]}}
    return json.dumps({"name": name, "stages": stages, **changes}).encode()


def form(fields: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the body of an upload; a field may be there twice."""
    parts = []
    for name, content in fields:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n'
        parts.append(head.encode() + b"Content-Type: application/zip\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
