"""`Cloud`: the query manager as the commands speak to it, over REST."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vdag.config import read_token
from vdag.errors import ConfigError, TransportError

__all__ = ["Cloud", "Token", "Url"]

TIMEOUT_S = 10.0
#: A stream says something at least every 15 s.
STREAM_TIMEOUT_S = 40.0
MAX_REPLY_NBYTES = 64 << 20

Url = Annotated[
    str, typer.Option("--cloud", envvar="VDAG_CLOUD", help="Address of the query manager.")
]
Token = Annotated[
    Path | None,
    typer.Option(
        "--token-file", envvar="VDAG_CLOUD_TOKEN_FILE", help="Holds the token it wants, if any."
    ),
]


class Cloud:
    """A query manager.

    Args:
        url: of it, such as `http://127.0.0.1:5000`.
        token_file: holds the token it wants in its first line.

    Raises:
        ConfigError: the address is none, or the file cannot be read or is open to others.
    """

    def __init__(self, url: str, token_file: Path | None = None) -> None:
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
            is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port out of range, half a pair of brackets
            is_address = False
        if not is_address:
            raise ConfigError(f"cloud {url!r} is no address, expected http://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._headers = {"content-type": "application/json"}
        if token_file is not None:
            self._headers["authorization"] = f"Bearer {read_token(token_file)}"

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the reply to a GET.

        Raises:
            ConfigError: it refuses, and the text is its own.
            TransportError: it cannot be reached, or says nothing that can be read.
        """
        return self._ask("GET", path + _query(parameters))

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        """Return the reply to a POST; errors as of `get`."""
        return self._ask("POST", path, json.dumps(document).encode())

    def delete(self, path: str) -> Any:
        """Return the reply to a DELETE; errors as of `get`."""
        return self._ask("DELETE", path)

    def events(self, path: str, **parameters: Any) -> Iterator[tuple[str, Any]]:
        """Yield the name and the data of server-sent events until the stream ends.

        Raises:
            ConfigError: it refuses, and the text is its own.
            TransportError: it cannot be reached, or falls silent.
        """
        name, data = "message", ""
        with self.open(path, **parameters) as reply:
            try:
                for line in reply:
                    field, _, value = line.decode().rstrip("\r\n").partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        data += value
                    elif not field and data:
                        yield name, json.loads(data)
                        name, data = "message", ""
            except (OSError, http.client.HTTPException, ValueError) as err:
                raise TransportError(f"{self.url} has fallen silent: {err}") from err

    def open(self, path: str, **parameters: Any) -> Any:
        """Return the reply to a GET as a file, to be closed; errors as of `get`."""
        return self._open("GET", path + _query(parameters), None, STREAM_TIMEOUT_S)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        with self._open(method, path, body, TIMEOUT_S) as reply:
            try:
                text = reply.read(MAX_REPLY_NBYTES + 1)
                if len(text) > MAX_REPLY_NBYTES:
                    raise TransportError(f"reply of {self.url} exceeds {MAX_REPLY_NBYTES} bytes")
                return json.loads(text)
            except (OSError, http.client.HTTPException, ValueError) as err:
                raise TransportError(f"{self.url} says nothing that can be read: {err}") from err

    def _open(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Any:
        request = urllib.request.Request(self.url + path, body, self._headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=timeout_s)
        except urllib.error.HTTPError as err:
            raise ConfigError(_reason(err)) from err
        except (OSError, http.client.HTTPException) as err:
            reason = getattr(err, "reason", err)
            raise TransportError(f"{self.url} cannot be reached: {reason}") from err


def _query(parameters: Mapping[str, Any]) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"?{urllib.parse.urlencode(given)}" if given else ""


def _reason(err: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(err.read(1 << 20))["error"])
    except (OSError, ValueError, LookupError, TypeError):
        return f"{err.url}: {err.code} {err.reason}"
