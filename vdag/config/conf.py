"""`Conf`: settings as the documents of the orchestrator have them, in sections of a `.conf` file.

    [collector]
    collector_addr = 0.0.0.0
    collector_port = 9001

Values are taken as they are written, a `%` or `#` in a password included. Names that nobody asks
for are passed over: one file may serve several programs.
"""

from __future__ import annotations

import configparser
from dataclasses import dataclass, field
from pathlib import Path

from vdag.errors import ConfigError

__all__ = ["Conf", "DatabaseConf"]

MAX_FILE_NBYTES = 1 << 20
#: What `db_type` may be; the documents know the first one, and do not name it.
DATABASES = ("mysql", "mariadb", "postgresql")


@dataclass(frozen=True, slots=True)
class DatabaseConf:
    """The section `[database]`.

    Attributes:
        kind: `mysql`, `mariadb` or `postgresql`.
        addr: host of the server.
        port: that it listens on.
        user: to log in as.
        passwd: likewise.
        schema: the database.
        url: in place of all others: a path of an SQLite file or a URL of SQLAlchemy.
    """

    kind: str = "mysql"
    addr: str = ""
    port: int = 0
    user: str = ""
    passwd: str = field(default="", repr=False)
    schema: str = ""
    url: str = field(default="", repr=False)


class Conf:
    """A file that has been read.

    Args:
        path: of the file.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parser = configparser.ConfigParser(interpolation=None)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_NBYTES + 1)
        except OSError as err:
            raise ConfigError(f"conf {path} cannot be read: {err.strerror}") from err
        if len(content) > MAX_FILE_NBYTES:
            raise ConfigError(f"conf {path} exceeds {MAX_FILE_NBYTES} bytes")
        try:
            self._parser.read_string(content.decode())
        except UnicodeDecodeError as err:
            raise ConfigError(f"conf {path} is not UTF-8") from err
        except configparser.Error as err:
            reason = " ".join(str(err).split())
            raise ConfigError(f"conf {path} has no sections of names and values: {reason}") from err

    def text(self, section: str, name: str, default: str | None = None) -> str:
        """Return a value.

        Raises:
            ConfigError: it is missing or empty, and there is no default.
        """
        if default is None and not self._parser.has_section(section):
            raise ConfigError(f"conf {self.path} has no section [{section}]")
        value = self._parser.get(section, name, fallback="").strip() or default
        if value is None:
            raise ConfigError(f"conf {self.path}: [{section}] has no {name}")
        return value

    def port(self, section: str, name: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a number of a port; errors as of `text`, or it is none."""
        value = self.text(section, name, None if default is None else str(default))
        if not (value.isascii() and value.isdecimal() and least <= int(value[:9]) <= 65535):
            raise ConfigError(
                f"conf {self.path}: [{section}] {name} is {value[:80]!r}, expected {least} to 65535"
            )
        return int(value)

    def folder(self, section: str, name: str) -> Path:
        """Return a folder that is there; errors as of `text`, or it is none."""
        path = Path(self.text(section, name))
        if not path.is_dir():
            raise ConfigError(f"conf {self.path}: [{section}] {name} {path} is no folder")
        return path

    def database(self) -> DatabaseConf:
        """Return the section `[database]`; errors as of `text`."""
        section = "database"
        if url := self.text(section, "db_url", ""):
            return DatabaseConf(url=url)
        kind = self.text(section, "db_type", DATABASES[0])
        if kind not in DATABASES:
            raise ConfigError(
                f"conf {self.path}: [{section}] db_type is {kind[:80]!r}, "
                f"expected {', '.join(DATABASES)}"
            )
        return DatabaseConf(
            kind,
            self.text(section, "db_addr"),
            self.port(section, "db_port"),
            self.text(section, "db_user"),
            self.text(section, "db_passwd"),
            self.text(section, "db_schema"),
        )
