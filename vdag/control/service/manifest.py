"""What a task package says of itself, and the hash that names its content.

`task_json` is read into a `TaskFile`, which is written as `task.json` in one form, whatever the
blanks and the order of what was sent. The hash of a package is the SHA-256 of what `sha256sum`
prints for its files, by path:

    find * -type f ! -name '*.pyc' | LC_ALL=C sort | xargs sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vdag.control.service.archives import PATH, StoredFile, quote
from vdag.errors import ConfigError, GraphError, PayloadTooLarge
from vdag.graph import Graph, Signature
from vdag.tasks import find, names
from vdag.wording import rephrase

__all__ = [
    "MAX_STAGES",
    "TASK_FIELD",
    "StageFile",
    "TaskFile",
    "files_of",
    "identity_of",
    "read_form",
    "read_task",
    "remove_caches",
    "walk",
]

TASK_FIELD = "task_json"
MAX_STAGES = 16
MAX_TASK_NBYTES = 1 << 16
CACHE = "__pycache__"

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}\Z")]
_Word = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")]
_Words = Annotated[tuple[_Word, ...], msgspec.Meta(max_length=64)]


class StageFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `task_json` says of a stage: the task of that name.

    Attributes:
        outputs: fields it adds to a frame's context.
        inputs: fields it cannot work without.
        optional: fields it uses when they are there.
        module: the file of its zip that registers the task; empty for `<stage>.py`.
    """

    outputs: Annotated[_Words, msgspec.Meta(min_length=1)]
    inputs: _Words = ()
    optional: _Words = ()
    module: Annotated[str, msgspec.Meta(max_length=200)] = ""

    @property
    def signature(self) -> Signature:
        """What the task has to have as its own."""
        return Signature(frozenset(self.inputs), frozenset(self.outputs), frozenset(self.optional))


class TaskFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`task_json`.

    Attributes:
        name: of the package.
        stages: by name; each has a zip.
        description: for operators.
        dag: the pipeline that the stages are for, as the documents write it; may be left out.
    """

    name: _Name
    stages: Annotated[dict[_Word, StageFile], msgspec.Meta(min_length=1, max_length=MAX_STAGES)]
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    dag: dict[str, Any] | None = None

    def module(self, stage: str) -> str:
        """Return the path of a stage's module in its zip."""
        return self.stages[stage].module or f"{stage}.py"

    def text(self) -> bytes:
        """Return the one form in which it is stored."""
        content = {name: value for name, value in msgspec.to_builtins(self).items() if value}
        return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def read_form(form: Mapping[str, Sequence[bytes]]) -> tuple[TaskFile, dict[str, bytes]]:
    """Read the form of an upload.

    Args:
        form: name of each field to its contents.

    Returns:
        What the package says of itself, and stage to its zip, which is not looked into.

    Raises:
        ConfigError: a field is missing, there twice, or of another form; the text names it.
        GraphError: its `dag` cannot run.
        PayloadTooLarge: `task_json` is.
    """
    for name, contents in form.items():
        if len(contents) != 1:
            raise ConfigError(f"field {quote(name)} is there {len(contents)} times")
    if TASK_FIELD not in form:
        raise ConfigError(f"field {TASK_FIELD} is missing")
    text = form[TASK_FIELD][0]
    if len(text) > MAX_TASK_NBYTES:
        raise PayloadTooLarge(f"field {TASK_FIELD} of {len(text)} bytes exceeds {MAX_TASK_NBYTES}")
    task = _checked(read_task(text))
    archives = {name: contents[0] for name, contents in form.items() if name != TASK_FIELD}
    if strange := archives.keys() - task.stages.keys():
        raise ConfigError(f"field {quote(min(strange))} is no stage of {TASK_FIELD}")
    if missing := task.stages.keys() - archives.keys():
        raise ConfigError(f"field {min(missing)} is missing, the zip of that stage")
    return task, archives


def read_task(text: bytes) -> TaskFile:
    """Read `task_json`.

    Raises:
        ConfigError: it is not JSON, or a field of it is missing, unknown, or of another form.
    """
    try:
        return msgspec.json.decode(text, type=TaskFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ConfigError(f"field {TASK_FIELD}: {rephrase(err)}") from err


def identity_of(name: str, files: Sequence[StoredFile]) -> str:
    """Return what names a package and its content."""
    lines = sorted((file.path, f"{file.sha256}  {file.path}\n") for file in files)
    digest = hashlib.sha256("".join(line for _, line in lines).encode()).hexdigest()
    return f"{name}@{digest}"


def files_of(folder: Path) -> list[StoredFile]:
    """Hash the files of a package that is stored.

    Raises:
        ConfigError: there is something other than files, or it cannot be read.
    """
    found = []
    try:
        for path in walk(folder):
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path} is no file")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found.append(StoredFile(path.relative_to(folder).as_posix(), status.st_size, digest))
    except OSError as err:
        raise ConfigError(f"package {folder.name} cannot be read: {err.strerror}") from err
    return found


def walk(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is no folder, but for what Python has cached."""
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in files)
        yield from (path for name in folders if (path := Path(root, name)).is_symlink())
        folders[:] = [name for name in folders if name != CACHE]


def remove_caches(folder: Path) -> None:
    """Remove what Python has cached: it would run in place of the source, and is in no hash.

    Raises:
        ConfigError: it cannot be removed.
    """
    try:
        for cache in list(folder.rglob(CACHE)):
            shutil.rmtree(cache)
    except OSError as err:
        raise ConfigError(f"package {folder.name}: {CACHE} cannot be removed: {err}") from err


def _checked(task: TaskFile) -> TaskFile:
    """Check what types cannot say, and bring the `dag` into its full form."""
    for stage in task.stages:
        module = task.module(stage)
        if not PATH.fullmatch(module) or not module.endswith(".py"):
            raise ConfigError(f"field {TASK_FIELD}: module {quote(module)} is no .py file")
        if stage == TASK_FIELD or (stage in names() and _is_ours(stage)):
            raise ConfigError(f"field {TASK_FIELD}: stage {stage} has the name of something else")
    if task.dag is None:
        return task
    try:
        graph = Graph.from_dag(task.dag)
        known = {name: find(name).signature for name in graph.tasks if name in names()}
        graph.check({**known, **{name: stage.signature for name, stage in task.stages.items()}})
    except GraphError as err:
        raise GraphError(f"field {TASK_FIELD}: dag: {err}") from err
    return msgspec.structs.replace(task, dag=graph.to_dag())


def _is_ours(task: str) -> bool:
    """Say whether a task comes with vdag, so that no other can take its name."""
    cls = find(task)
    module: str = getattr(cls, "function", cls).__module__
    return module.partition(".")[0] == "vdag"
