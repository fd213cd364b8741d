from __future__ import annotations

import hashlib
import io
import re
import stat
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from package_kit import zip_of, zip_of_entries

from vdag.control.service.archives import unpack
from vdag.errors import ConfigError, PayloadTooLarge

LIMIT = 1 << 20


def take(data: bytes, folder: Path, *, max_files: int = 20, max_nbytes: int = LIMIT):
    return unpack(data, folder, max_files=max_files, max_nbytes=max_nbytes)


def entry(name: str, mode: int = 0, **fields: int) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name)
    found.external_attr = mode << 16
    for field, value in fields.items():
        setattr(found, field, value)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_and_folders_are_written_and_hashed(tmp_path, method):
    files = {"a.py": b"x = 1\n", "models/b.onnx": bytes(range(256)) * 300, "models/empty": b""}
    found = take(zip_of({"models/": "", **files}, method), tmp_path / "new")
    assert tree(tmp_path / "new") == files
    assert [(file.path, file.nbytes, file.sha256) for file in found] == [
        (name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in sorted(files.items())
    ]


def test_nothing_of_an_entry_decides_about_its_mode(tmp_path):
    take(zip_of_entries([(entry("a.py", stat.S_IFREG | 0o6777), "")]), tmp_path)
    assert stat.S_IMODE((tmp_path / "a.py").stat().st_mode) == 0o600


PLAIN = (
    "not a relative path of letters, digits, and _ . + - "
    "whose parts begin with a letter, a digit, or _"
)


@pytest.mark.parametrize(
    "name",
    [
        "../a.py", "a/../../b.py", "/etc/passwd", "a//b.py", "./a.py", "..", "a/.", "C:/a.py",
        "..\\a.py", "a\\b.py", ".hidden", "-rf", "a b.py", "a\n.py", "ä.py", "a.py\u202e",
        "con:stream", "~root/a.py", "/",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    folder = tmp_path / "in" / "here"
    with pytest.raises(ConfigError, match=rf"^entry {re.escape(repr(name))}: {re.escape(PLAIN)}$"):
        take(zip_of({name: "x"}), folder)
    assert tree(tmp_path) == {}


def test_a_name_that_ends_at_a_nul_for_some_is_refused(tmp_path):
    data = zip_of({"a.pyXevil": "x"}).replace(b"a.pyXevil", b"a.py\0evil")
    with pytest.raises(ConfigError, match=r"^entry 'a\.py\\x00evil': not a relative path"):
        take(data, tmp_path)


def test_a_name_that_differs_inside_of_the_archive_is_refused(tmp_path):
    data = zip_of({"good.py": "x"})
    with pytest.raises(ConfigError, match=r"^entry 'good\.py': broken: BadZipFile: "):
        take(data.replace(b"good.py", b"evil.py", 1), tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("link", stat.S_IFLNK | 0o777)],
         "entry 'link': symbolic link, not a file or a folder"),
        ([entry("sda", stat.S_IFBLK | 0o666)],
         "entry 'sda': block device, not a file or a folder"),
        ([entry("tty", stat.S_IFCHR | 0o666)],
         "entry 'tty': character device, not a file or a folder"),
        ([entry("fifo", stat.S_IFIFO | 0o666)], "entry 'fifo': pipe, not a file or a folder"),
        ([entry("s", stat.S_IFSOCK | 0o666)], "entry 's': socket, not a file or a folder"),
        ([entry("d", stat.S_IFDIR | 0o777)],
         "entry 'd': folder by its mode, not a file or a folder"),
        ([entry("d/", stat.S_IFREG | 0o777)],
         "entry 'd/': file by its mode, not a file or a folder"),
        ([entry("a"), entry("a")], "entry 'a': another one has its place"),
        ([entry("a"), entry("A")], "entry 'A': another one has its place"),
        ([entry("a"), entry("a/b")], "entry 'a/b': another one has its place"),
        ([entry("a/b"), entry("a")], "entry 'a': another one has its place"),
        ([entry("a"), entry("a/")], "entry 'a/': another one has its place"),
        ([entry("__pycache__/a.cpython-311.pyc")],
         "entry '__pycache__/a.cpython-311.pyc': compiled Python is not taken, send the source"),
        ([entry("a/" * 8 + "b")], f"entry '{'a/' * 8}b': depth of 9 exceeds 8"),
        ([entry("n" * 201)],
         f"entry '{'n' * 79}...: path of 201 characters exceeds 200"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_are_no_plain_files_are_refused(tmp_path, entries, message):
    folder = tmp_path / "here"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        take(zip_of_entries([(found, "") for found in entries]), folder)
    assert not folder.exists()


def test_an_encrypted_entry_is_refused(tmp_path):
    data = bytearray(zip_of({"a.py": "x"}, zipfile.ZIP_STORED))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ConfigError, match=r"^entry 'a\.py': encrypted$"):
        take(bytes(data), tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_whose_memory_the_sender_chooses_is_refused(tmp_path, method):
    message = f"entry 'a.py': compression {method} is neither 0, stored, nor 8, deflated"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        take(zip_of({"a.py": "x" * 99}, method), tmp_path)


def tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return data.getvalue()


@pytest.mark.parametrize(
    "inner",
    [zip_of({"b.py": "x"}), zip_of({}), b"\x1f\x8b\x08\0rest", b"\xfd7zXZ\0rest", tar()],
    ids=["zip", "empty zip", "gzip", "xz", "tar"],
)
def test_an_archive_inside_of_the_archive_is_refused(tmp_path, inner):
    with pytest.raises(ConfigError, match=r"^entry 'data\.bin': an archive inside of the archive$"):
        take(zip_of({"data.bin": inner}, zipfile.ZIP_STORED), tmp_path)


def test_a_bomb_is_refused_by_what_it_announces(tmp_path):
    data = zip_of({"zeros": bytes(LIMIT)})
    message = f"zip of {len(data)} bytes unpacks to {LIMIT}, more than 100 times as much"
    with pytest.raises(PayloadTooLarge, match=f"^{message}$"):
        take(data, tmp_path)
    with pytest.raises(PayloadTooLarge, match=rf"^zip unpacks to {LIMIT} bytes, limit 1000$"):
        take(data, tmp_path, max_nbytes=1000)
    assert tree(tmp_path) == {}


def test_a_bomb_that_announces_less_than_it_holds_yields_no_more(tmp_path):
    data = bytearray(zip_of({"zeros": bytes(LIMIT)}))
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + place, 100)
    with pytest.raises(ConfigError, match=r"^entry 'zeros': broken: BadZipFile: "):
        take(bytes(data), tmp_path)
    assert sum(map(len, tree(tmp_path).values())) <= 100


def test_entries_that_share_their_bytes_count_each(tmp_path):
    data = zip_of({"a": bytes(range(256)) * 512, "b": ""})
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 1)
    same = bytearray(data[:second] + data[first:second].replace(b"a", b"b", 1) + data[-22:])
    struct.pack_into("<I", same, len(same) - 10, 2 * (second - first))
    with pytest.raises((ConfigError, PayloadTooLarge)):
        take(bytes(same), tmp_path)
    assert sum(map(len, tree(tmp_path).values())) <= 1 << 17


def test_entries_are_counted_before_memory_is_taken_for_them(tmp_path):
    one = zip_of({"a": ""})
    start = one.index(b"PK\x01\x02")
    central = one[start:-22] * 100_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(central), start, 0)
    data = one[:start] + central + end
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match=r"^zip of 100000 entries exceeds limit 20$"):
            take(data, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04", zip_of({"a": "x"})[:-1]])
def test_what_is_no_zip_is_refused(tmp_path, data):
    with pytest.raises(ConfigError, match=r"^zip is broken: BadZipFile: 'File is not a zip file'$"):
        take(data, tmp_path)


SAMPLE = zip_of({"a.py": "x = 1\n" * 20, "models/b.bin": bytes(range(256)), "models/": ""})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=8
    ),
    st.integers(0, len(SAMPLE)),
)
def test_whatever_an_archive_says_nothing_leaves_its_folder(tmp_path, changes, cut):
    data = bytearray(SAMPLE)
    for place, value in changes:
        data[place] = value
    with tempfile.TemporaryDirectory(dir=tmp_path) as parent:
        inside = Path(parent, "deep", "inside")
        with suppress(ConfigError, PayloadTooLarge):
            take(bytes(data[: max(cut, len(data) - cut)]), inside)
        assert sum(map(len, tree(Path(parent)).values())) <= LIMIT
        assert {path.name for path in Path(parent).iterdir()} <= {"deep"}
        assert not [path for path in Path(parent).rglob("*") if path.is_symlink()]
