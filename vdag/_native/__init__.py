"""The native surface: every kernel, once, by name.

The kernels are Cython and C. Each module has a twin in numpy, `reference_<noun>.py`, that is its
specification and, under test, its oracle. `VDAG_NATIVE=reference` selects the twins; otherwise
missing extensions are an error that says how to build them, never a silent fallback. `jpeg` alone
has one: without a libturbojpeg on the machine it is its twin on OpenCV, and `vdag doctor` says so.
Nobody imports a kernel past this list.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vdag._native.placement import Normalization, Placement
from vdag.errors import NativeUnavailable

__all__ = [
    "Normalization",
    "Placement",
    "decode",
    "forecast",
    "header",
    "jpeg",
    "literal",
    "motion",
    "nms",
    "preprocess",
    "quoted",
    "ring",
]

if TYPE_CHECKING or os.environ.get("VDAG_NATIVE") != "reference":
    try:
        from vdag._native import (
            decode,
            forecast,
            header,
            jpeg,
            literal,
            motion,
            nms,
            preprocess,
            quoted,
            ring,
        )
    except ImportError as err:
        raise NativeUnavailable(
            f"the compiled kernels are missing ({err}): run `pip install -e .` in the checkout, "
            "or `python setup.py build_ext --inplace`; VDAG_NATIVE=reference uses numpy instead"
        ) from err
    if not jpeg.available():
        from vdag._native import reference_jpeg as jpeg  # type: ignore[no-redef]
else:
    from vdag._native import reference_decode as decode
    from vdag._native import reference_forecast as forecast
    from vdag._native import reference_header as header
    from vdag._native import reference_jpeg as jpeg
    from vdag._native import reference_literal as literal
    from vdag._native import reference_motion as motion
    from vdag._native import reference_nms as nms
    from vdag._native import reference_preprocess as preprocess
    from vdag._native import reference_quoted as quoted
    from vdag._native import reference_ring as ring
