"""The cache of built engines: found by what they are of, never loaded when a byte is another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdag.engines.tensorrt.builder import BuildOrder, InputRange, Target
from vdag.engines.tensorrt.cache import EngineCache, default_folder
from vdag.errors import ConfigError, EngineError
from vdag.kinship import child_environment

ENGINE = bytes(range(256)) * 40
shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def order_of(digest: str = "a" * 64, **changes: object) -> BuildOrder:
    ranges = ((InputRange("x", (1, 3), (2, 3), (4, 3)),),)
    order = BuildOrder(
        "model", Path("m.onnx"), digest, ("tensorrt", "10.3"), Target("GPU", (8, 7)), ranges
    )
    return replace(order, **changes)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_what_was_stored_is_loaded(cache: EngineCache):
    path = cache.store(order_of(), ENGINE)
    assert cache.load(order_of()) == ENGINE
    assert [item.name for item in cache.folder.iterdir()] == [path.name]
    (entry,) = cache.entries(check=True)
    assert (entry.label, entry.problem) == ("model", "")
    assert entry.terms["precision"] == "float16"


@pytest.mark.parametrize(
    "other",
    [
        order_of("b" * 64),
        order_of(library=("tensorrt", "10.4")),
        order_of(library=("tensorrt-rtx", "10.3")),
        order_of(target=Target("GPU", (8, 9))),
        order_of(target=Target("other", (8, 7))),
        order_of(profiles=()),
        order_of(precision="float32"),
    ],
)
def test_an_engine_of_anything_else_is_not_found(cache: EngineCache, other: BuildOrder):
    cache.store(order_of(), ENGINE)
    assert cache.load(other) is None


def test_an_engine_under_another_s_name_is_removed(cache: EngineCache):
    other = order_of("b" * 64)
    cache.store(order_of(), ENGINE).rename(cache.path(other))
    assert cache.load(other) is None
    assert list(cache.folder.iterdir()) == []


@shared
@given(data=st.data())
def test_a_file_with_any_byte_changed_is_removed(cache: EngineCache, data: st.DataObject):
    path = cache.store(order_of(), ENGINE)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert cache.load(order_of()) is None
    assert not path.exists()


@shared
@given(data=st.data())
def test_a_file_of_any_other_length_is_removed(cache: EngineCache, data: st.DataObject):
    path = cache.store(order_of(), ENGINE)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(data.draw(st.sampled_from([content[:cut], content + content[: cut + 1]])))
    assert cache.load(order_of()) is None
    assert not path.exists()


@shared
@given(content=st.binary(max_size=400))
def test_any_file_at_all_is_survived(cache: EngineCache, content: bytes):
    cache.folder.mkdir(exist_ok=True)
    cache.path(order_of()).write_bytes(content)
    (entry,) = cache.entries(check=True)
    assert entry.problem
    assert cache.load(order_of()) is None


def test_a_damaged_file_is_shown_with_what_is_wrong(cache: EngineCache):
    path = cache.store(order_of(), ENGINE)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert cache.entries()[0].problem == ""
    assert cache.entries(check=True)[0].problem == "the engine's checksum is wrong"
    path.write_bytes(content[:-1])
    assert (
        cache.entries()[0].problem == f"the engine has {len(ENGINE) - 1} bytes, not {len(ENGINE)}"
    )


def test_the_longest_unused_go_beyond_the_budget(cache: EngineCache):
    orders = [order_of(digit * 64) for digit in "0123"]
    paths = [cache.store(order, ENGINE) for order in orders]
    for age, path in enumerate(paths):
        os.utime(path, (1000 + age, 1000 + age))
    assert cache.load(orders[0]) == ENGINE  # which makes it the last used
    nbytes = paths[0].stat().st_size
    assert cache.prune(2 * nbytes + 1) == [paths[2], paths[1]]
    assert cache.load(orders[3]) == ENGINE
    assert cache.load(orders[0]) == ENGINE


@shared
@given(
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=6),
    budget=st.integers(0, 8000),
)
def test_after_a_prune_the_rest_fits(tmp_path_factory, sizes: list[int], budget: int):
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    for number, size in enumerate(sizes):
        cache.store(order_of(f"{number:064x}"), bytes(size))
    cache.prune(budget)
    left = cache.entries(check=True)
    assert sum(entry.nbytes for entry in left) <= budget
    assert not any(entry.problem for entry in left)


def test_what_was_just_stored_stays_whatever_its_size(cache: EngineCache):
    small = EngineCache(cache.folder, budget_nbytes=10)
    small.store(order_of("0" * 64), ENGINE)
    small.store(order_of(), ENGINE)
    assert [entry.path for entry in small.entries()] == [small.path(order_of())]


WRITER = """
import os, sys
from pathlib import Path
from vdag.engines.tensorrt import cache
from vdag.engines.tensorrt.builder import BuildOrder, Target

def wait(descriptor):
    print("in the middle", flush=True)
    sys.stdin.read()

cache.os.fsync = wait
target = Target("GPU", (8, 7))
order = BuildOrder("model", Path("m.onnx"), "a" * 64, ("tensorrt", "10.3"), target, ())
cache.EngineCache(Path(sys.argv[1])).store(order, bytes(1 << 20))
"""


def test_a_writer_killed_in_the_middle_leaves_nothing_to_load(cache: EngineCache):
    order = order_of(profiles=())
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(cache.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"in the middle\n"
        assert cache.prune() == []  # it is alive: what it writes is left alone
        os.kill(writer.pid, signal.SIGKILL)
    assert cache.load(order) is None
    assert cache.entries() == []
    (left,) = cache.folder.iterdir()
    assert cache.prune() == [left]
    cache.store(order, ENGINE)
    assert cache.load(order) == ENGINE


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    cache = EngineCache(tmp_path / "file")
    with pytest.raises(EngineError, match=r"engine cannot be stored in .*: (Not a|File)"):
        cache.store(order_of(), ENGINE)
    with pytest.raises(EngineError, match=r"engine of 0 bytes is outside 1\.\."):
        cache.store(order_of(), b"")
    assert cache.load(order_of()) is None


def test_the_folder_is_the_user_s_unless_told(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VDAG_ENGINES", raising=False)
    assert default_folder() == tmp_path / "vdag" / "engines"
    monkeypatch.setenv("VDAG_ENGINES", str(tmp_path / "mine"))
    assert EngineCache().folder == tmp_path / "mine"


def test_a_precision_that_is_none_is_refused():
    with pytest.raises(ConfigError) as caught:
        order_of(precision="int4")
    assert str(caught.value) == "precision 'int4' is none of float16, float32, model"
