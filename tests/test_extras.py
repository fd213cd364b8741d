"""What the extra `video` installs, and what is said where it is missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from vdag.errors import DependencyMissing
from vdag.extras import opencv, pyav


@pytest.mark.parametrize(
    ("load", "module", "missing"),
    [(opencv, "cv2", "cv2"), (pyav, "av", "av"), (pyav, "av", "av.video.reformatter")],
)
def test_a_module_that_is_missing_is_named_with_its_extra(
    load: Callable[[], object], module: str, missing: str, monkeypatch: pytest.MonkeyPatch
):
    load.cache_clear()  # others may have asked
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DependencyMissing, match=re.escape(module)) as info:
        load()
    assert (info.value.module, info.value.extra) == (module, "video")
    monkeypatch.undo()
    assert load() is sys.modules[module]


def test_pyav_comes_with_what_converts_its_pictures():
    assert pyav().video.reformatter.VideoReformatter
