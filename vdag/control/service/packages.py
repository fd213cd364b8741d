"""Task packages: code that is uploaded, and does nothing until an operator has enabled it.

A package is `task_json`, which says what it holds, and a zip for each of its stages. It is checked
and stored, and that is all an upload can do. Its code runs in the node and its workers, as files of
`service.modules` do, from the start after its identity was put into `service.packages.enabled`. The
identity names the content: what comes later, under whatever name, is another package.

    folder/crowd@3f5a.../task.json            the task_json, in one form
    folder/crowd@3f5a.../density/density.py   stage, and path in its zip
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vdag.config import PACKAGE
from vdag.control.service import manifest
from vdag.control.service.archives import StoredFile, quote, unpack, write_file
from vdag.control.service.manifest import MAX_STAGES, TaskFile
from vdag.errors import ConfigError, PackagesUnavailable, PayloadTooLarge, Saturated
from vdag.tasks import find, names
from vdag.tasks.modules import load_module

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.config import PackagesConfig

__all__ = ["MAX_PARTS", "Package", "PackageStore", "load_enabled"]

logger = logging.getLogger(__name__)

TASK_NAME = "task.json"
#: Parts of a form that is worth reading.
MAX_PARTS = MAX_STAGES + 1
#: Files of a package, folders of its zips included.
MAX_FILES = 512
#: Name of what is not stored yet, and of the file that says whose the folder is.
INCOMING, LOCK = ".incoming-", ".lock"


@dataclass(frozen=True, slots=True)
class Package:
    """A package that is stored.

    Attributes:
        identity: its name, `@`, and its hash.
        folder: where its files are.
        task: what it says of itself.
        nbytes: of its files.
        is_enabled: the configuration has its identity.
    """

    identity: str
    folder: Path
    task: TaskFile
    nbytes: int
    is_enabled: bool

    @property
    def modules(self) -> dict[str, Path]:
        """Each stage's file that registers its task."""
        return {
            stage: self.folder / stage / self.task.module(stage)
            for stage in sorted(self.task.stages)
        }

    def verify(self) -> None:
        """Make sure that the files are what was uploaded.

        Raises:
            ConfigError: they are not.
        """
        if self.identity != manifest.identity_of(self.task.name, manifest.files_of(self.folder)):
            raise ConfigError(f"package {self.identity} was changed since it was uploaded")


class PackageStore:
    """The packages of a node, in a folder; closed by `close` or a `with` block.

    All methods may be called from any thread. What is stored is never changed nor removed.

    Args:
        config: with a folder, which is made if it is missing.
        is_reader: look at the packages only; then another store may be there at the same time.

    Raises:
        ConfigError: the folder cannot be used, others can write to it, or another node has it.
    """

    def __init__(self, config: PackagesConfig, *, is_reader: bool = False) -> None:
        if config.folder is None:
            raise ConfigError("service.packages.folder is not set")
        self._config, self._folder = config, config.folder.absolute()
        self._is_storing = threading.Lock()
        with ExitStack() as stack:
            if not is_reader:
                _prepare(self._folder)
                stack.callback(os.close, _lock(self._folder))
                _sweep(self._folder)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the folder to others; harmless when called again."""
        self._stack.close()

    def packages(self) -> list[Package]:
        """Return what is stored, by name; what cannot be read is left out.

        Raises:
            ConfigError: the folder cannot be read.
        """
        packages = []
        for identity in self._identities():
            try:
                packages.append(self.package(identity))
            except ConfigError as err:
                logger.warning("%s", err)
        return packages

    def package(self, identity: str) -> Package:
        """Return a package by its identity. Its files are not looked into, see `Package.verify`.

        Raises:
            ConfigError: there is none, or it cannot be read.
        """
        folder = self._folder / identity
        if not PACKAGE.fullmatch(identity) or not folder.is_dir():
            raise ConfigError(f"package {quote(identity)} is not in {self._folder}")
        try:
            text = (folder / TASK_NAME).read_bytes()
            nbytes = sum(path.lstat().st_size for path in manifest.walk(folder))
        except OSError as err:
            raise ConfigError(f"package {identity} cannot be read: {err.strerror}") from err
        is_enabled = identity in self._config.enabled
        return Package(identity, folder, manifest.read_task(text), nbytes, is_enabled)

    def enabled(self) -> list[Package]:
        """Return the packages of `service.packages.enabled`, in that order, all verified.

        Raises:
            ConfigError: one is missing, or was changed since it was uploaded.
        """
        packages = [self.package(identity) for identity in self._config.enabled]
        for package in packages:
            manifest.remove_caches(package.folder)
            package.verify()
        return packages

    def install(self, form: Mapping[str, Sequence[bytes]]) -> Package:
        """Check a package and store it; nothing of it is executed.

        Args:
            form: name of each field to its contents.

        Returns:
            The package; the stored one, if it was there already.

        Raises:
            ConfigError: a field is missing, of another form, or an archive that is not taken.
            GraphError: its `dag` cannot run.
            PayloadTooLarge: it is larger than a package may be.
            PackagesUnavailable: no further one may be stored, or the disk is full.
            Saturated: another one is being stored.
        """
        task, archives = manifest.read_form(form)
        # Nobody waits here: threads that did would be missing elsewhere.
        if not self._is_storing.acquire(blocking=False):
            raise Saturated("another package is being stored")
        try:
            with _incoming(self._folder) as folder:
                files = self._unpack(task, archives, folder)
                identity = manifest.identity_of(task.name, files)
                if not (self._folder / identity).is_dir():
                    self._check_room(sum(file.nbytes for file in files))
                    _settle(folder, self._folder / identity)
                    logger.info("package %s is stored", identity)
        except OSError as err:
            raise PackagesUnavailable(f"package cannot be stored: {err.strerror}") from err
        finally:
            self._is_storing.release()
        return self.package(identity)

    def _identities(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if PACKAGE.fullmatch(name))
        except OSError as err:
            raise ConfigError(f"packages {self._folder} cannot be read: {err.strerror}") from err

    def _unpack(
        self, task: TaskFile, archives: Mapping[str, bytes], folder: Path
    ) -> list[StoredFile]:
        files = [write_file(folder / TASK_NAME, task.text())]
        for stage, data in sorted(archives.items()):
            used_nbytes = sum(file.nbytes for file in files)
            try:
                found = unpack(
                    data,
                    folder / stage,
                    max_files=MAX_FILES - len(files),
                    max_nbytes=self._config.max_nbytes - used_nbytes,
                )
            except (ConfigError, PayloadTooLarge) as err:
                raise type(err)(f"field {stage}: {err}") from err
            if task.module(stage) not in {file.path for file in found}:
                raise ConfigError(f"field {stage}: zip has no file {task.module(stage)}")
            files += [
                StoredFile(f"{stage}/{file.path}", file.nbytes, file.sha256) for file in found
            ]
        return files

    def _check_room(self, nbytes: int) -> None:
        count = len(self._identities())
        if count >= self._config.max_packages:
            raise PackagesUnavailable(
                f"{count} packages are stored, limit {self._config.max_packages}: "
                "an operator has to remove one"
            )
        total = sum(package.nbytes for package in self.packages()) + nbytes
        if total > self._config.total_nbytes:
            raise PackagesUnavailable(
                f"packages would take {total} bytes, limit {self._config.total_nbytes}: "
                "an operator has to remove one"
            )


def load_enabled(store: PackageStore) -> list[Path]:
    """Run the modules of the enabled packages, so that their tasks are registered.

    Returns:
        The modules, for workers to run likewise.

    Raises:
        ConfigError: a package is missing or was changed, its code failed, or a task is not what
            its package says.
    """
    modules = []
    for package in store.enabled():
        for stage, path in package.modules.items():
            load_module(path)
            if stage not in names():
                raise ConfigError(f"{path} registers no task {stage}")
            if find(stage).signature != package.task.stages[stage].signature:
                raise ConfigError(f"{path}: signature of {stage} is not that of its task_json")
            modules.append(path)
        logger.info("package %s is loaded", package.identity)
    return modules


def _prepare(folder: Path) -> None:
    """Make the folder, and make sure that nobody else puts code there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as err:
        raise ConfigError(f"packages {folder} cannot be used: {err.strerror}") from err
    if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(
            f"packages {folder}, mode {mode:04o} and owner {status.st_uid}, is writable for others"
        )


def _lock(folder: Path) -> int:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise ConfigError(f"packages {folder} cannot be used: {err.strerror}") from err
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(descriptor)
        raise ConfigError(f"packages {folder} are another node's") from err
    return descriptor


def _sweep(folder: Path) -> None:
    """Remove what a node that died had not stored yet."""
    for path in folder.glob(f"{INCOMING}*"):
        logger.warning("%s is removed: it was never stored", path)
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _incoming(folder: Path) -> Iterator[Path]:
    """Give a folder for a package that is being checked; gone at the end, unless it was moved."""
    path = Path(tempfile.mkdtemp(prefix=INCOMING, dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _settle(folder: Path, place: Path) -> None:
    """Move a folder to its place, so that it is there as a whole or not at all."""
    for root, _, _ in os.walk(folder):
        _sync(Path(root))
    folder.rename(place)
    _sync(place.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
