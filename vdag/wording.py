"""What the system and the libraries say went wrong, in the words of this package's errors."""

from __future__ import annotations

__all__ = ["located", "reason", "rephrase"]


def reason(err: BaseException) -> str:
    """Return why the system or FFmpeg refused: "no such file or directory"."""
    return str(getattr(err, "strerror", None) or err).lower()


def rephrase(err: Exception) -> str:
    """Return what msgspec found wrong with a text: "pid: expected int, got str"."""
    place, text = located(err)
    return f"{place}: {text}" if place else text


def located(err: Exception) -> tuple[str, str]:
    """Return where msgspec found something wrong, empty for the whole, and what it is.

    It says "Expected `int`, got `str` - at `$.node.name`", or less; keys: "at `key` in `$.node`".
    """
    if isinstance(err, RecursionError):
        return "", "it is nested too deeply"
    text, _, place = str(err).partition(" - at ")
    text = text.replace("`", "")
    text = text if text.startswith("JSON") else text[:1].lower() + text[1:]
    place = place.removeprefix("`key` in ").strip("`")
    return place.removeprefix("$").removeprefix("."), text
