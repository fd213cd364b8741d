"""The keys of a node, and which other nodes may connect to it.

A folder that only its user can enter (0700), with files that only its user can read (0600):

    own.json             name, public and secret key of this node
    trusted/NAME.pub     public key of another node, one line

Keys are CURVE's, 32 bytes in 40 characters of Z85 (ZeroMQ RFC 26 and 32). Both nodes of a link need
each other's: a landing lets in whom its node trusts, and an edge asks the landing for its key.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zmq
from zmq.auth.thread import ThreadAuthenticator

from vdag.errors import ConfigError, TransportError
from vdag.transport.folder import private_folder
from vdag.transport.sockets import ZAP_DOMAIN, Curve

__all__ = ["Gate", "KeyFolder", "KeyPair", "default_folder"]

logger = logging.getLogger(__name__)

MAX_FILE_NBYTES = 1_024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The keys of a node; `secret` is not shown by `repr`."""

    name: str
    public: str
    secret: str = field(repr=False)


def default_folder() -> Path:
    """Return VDAG_KEYS, or `vdag/keys` in the user's folder for configuration."""
    if named := os.environ.get("VDAG_KEYS"):
        return Path(named)
    configuration = os.environ.get("XDG_CONFIG_HOME")
    return Path(configuration or Path.home() / ".config") / "vdag" / "keys"


class KeyFolder:
    """The keys in a folder; nothing is read or made before it is asked for.

    Args:
        path: of the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def new(self, name: str, *, replace: bool = False) -> KeyPair:
        """Make the keys of this node.

        Args:
            name: of the node, for people.
            replace: give up the keys there are; who trusts them has to be told.

        Raises:
            ConfigError: the name is none, there are keys already, or the folder is not private.
        """
        _check_name(name)
        private_folder(self.path)
        public, secret = _make_pair()
        text = msgspec.json.encode({"name": name, "public": public, "secret": secret})
        _write(self._own, text + b"\n", replace=replace)
        return KeyPair(name, public, secret)

    def own(self) -> KeyPair:
        """Return the keys of this node.

        Raises:
            ConfigError: there are none, they are broken, or others may read them.
        """
        try:
            pair = msgspec.json.decode(_read(self._own, secret=True), type=KeyPair)
        except FileNotFoundError as err:
            raise ConfigError(
                f"folder {self.path} has no keys: make some with `vdag keys new NAME`"
            ) from err
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise ConfigError(f"{self._own} holds no keys: {err}") from err
        _check_name(pair.name)
        _check_key(pair.public)
        if zmq.curve_public(_check_key(pair.secret).encode()).decode() != pair.public:
            raise ConfigError(f"{self._own} holds two keys that do not belong together")
        return pair

    def trust(self, name: str, public: str) -> None:
        """Let another node connect, and be connected to; replaces a key of the same name.

        Raises:
            ConfigError: the name or the key is none, or the folder is not private.
        """
        _check_name(name)
        _check_key(public)
        private_folder(self.path)
        _write(private_folder(self._trusted) / f"{name}.pub", f"{public}\n".encode(), replace=True)

    def distrust(self, name: str) -> None:
        """Let another node connect no more; connections there are remain.

        Raises:
            ConfigError: there is no such node.
        """
        _check_name(name)
        try:
            (self._trusted / f"{name}.pub").unlink()
        except FileNotFoundError as err:
            raise ConfigError(f"node {name} is not trusted: {self._trusted} has no key") from err

    def trusted(self) -> dict[str, str]:
        """Return the public keys of the nodes that may connect, by name.

        Raises:
            ConfigError: a file holds no key, or others may write it.
        """
        files = sorted(self._trusted.glob("*.pub"))
        return {
            file.stem: _check_key(_read(file).decode("ascii", "replace").strip()) for file in files
        }

    def to_bind(self) -> Curve:
        """Return the keys for a PULL, which a `Gate` of this folder guards."""
        pair = self.own()
        return Curve(pair.public, pair.secret)

    def to_connect(self, name: str) -> Curve:
        """Return the keys for a PUSH to a node that is trusted.

        Raises:
            ConfigError: it is not, or this node has no keys.
        """
        trusted = self.trusted()
        if name not in trusted:
            raise ConfigError(
                f"node {name} is not trusted: add its key with `vdag keys trust {name} PUBLIC`"
            )
        pair = self.own()
        return Curve(pair.public, pair.secret, trusted[name])

    @property
    def _own(self) -> Path:
        return self.path / "own.json"

    @property
    def _trusted(self) -> Path:
        return self.path / "trusted"


class Gate:
    """Lets trusted nodes into the CURVE sockets of one context, and nobody else.

    The folder is read again for every peer that knocks, so that `vdag keys trust` takes effect at
    once. A folder that cannot be read lets nobody in.

    Args:
        context: whose sockets are guarded; it can have one gate.
        folder: says who is trusted.

    Raises:
        TransportError: the context has a gate already.
    """

    def __init__(self, context: zmq.Context[Any], folder: KeyFolder) -> None:
        self._folder = folder
        self.refused = 0
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.configure_curve_callback(ZAP_DOMAIN.decode(), self)
        try:
            self._authenticator.start()
        except zmq.ZMQError as err:
            self._authenticator.stop()
            raise TransportError("the context has a gate already") from err

    def callback(self, domain: str, key: bytes) -> bool:
        """Say whether a node may enter; called by the authenticator's thread."""
        try:
            is_trusted = key.decode() in self._folder.trusted().values()
        except (ConfigError, OSError) as err:
            logger.error("nobody can enter: %s", err)
            is_trusted = False
        if not is_trusted:
            self.refused += 1
            logger.info("a node with the unknown key %s was refused", key.decode())
        return is_trusted

    def close(self) -> None:
        """Guard no more: from now on nobody gets in. May be called again."""
        self._authenticator.stop()


def _make_pair() -> tuple[str, str]:
    while True:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        if not public.startswith("-"):  # on a command line it would be an option
            return public, secret


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name {name!r} is not 1 to 64 letters, digits, dots, dashes and underscores"
        )
    return name


def _check_key(key: str) -> str:
    # The text does not show the key: it may be a secret one.
    if not _KEY.fullmatch(key):
        raise ConfigError(f"key of {len(key)} characters is not 40 characters of Z85")
    return key


def _write(file: Path, text: bytes, *, replace: bool) -> None:
    """Write a file whole or not at all, for the user alone."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text)
        if replace:
            draft.replace(file)
        else:
            os.link(draft, file)  # fails if there is one, even if it came just now
    except FileExistsError as err:
        raise ConfigError(f"{file} exists: these keys would be lost") from err
    finally:
        draft.unlink(missing_ok=True)


def _read(file: Path, *, secret: bool = False) -> bytes:
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        forbidden = 0o077 if secret else 0o022
        if found.st_uid != os.geteuid() or found.st_mode & forbidden:
            mode = stat.S_IMODE(found.st_mode)
            raise ConfigError(
                f"{file} of user {found.st_uid} has mode {mode:04o}, "
                f"expected 0600 of user {os.geteuid()}"
            )
        if found.st_size > MAX_FILE_NBYTES:
            raise ConfigError(f"{file} of {found.st_size} bytes exceeds limit {MAX_FILE_NBYTES}")
        return stream.read()
