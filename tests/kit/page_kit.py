"""A page as a tree of elements, and what is recorded of the session that it shows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from packet_kit import EPOCH_S, own_frames

from vdag.control.accounts import Account, gather
from vdag.control.records.inspection import Inspection
from vdag.control.records.opening import open_engine

#: Elements that have no end.
EMPTY = {"br", "hr", "img", "input", "link", "meta"}
#: What its frames went through.
TRUTHS = own_frames(100, lost=[30, 31, 32])
#: When its plans came into force.
CHANGES_S = (EPOCH_S + 2, EPOCH_S + 9)


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Everything inside of a tag, with all these attributes; `class_` is one of the classes."""
        found = []
        for child in self.children:
            names = child.attributes.get("class", "").split()
            if (not tag or child.tag == tag) and all(
                value in names if key == "class_" else child.attributes.get(key) == value
                for key, value in attributes.items()
            ):
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        return "".join(self.own) + "".join(child.text for child in self.children)


class Page(HTMLParser):
    """A page as a tree; every element is ended, in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = self._at = Element("", {})
        self.html = html
        self.feed(html)
        self.close()
        assert self._at is self.root, f"{self._at.tag} is not ended"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs}, self._at)
        self._at.children.append(element)
        if tag not in EMPTY:
            self._at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._at.children.append(Element(tag, {k: v or "" for k, v in attrs}, self._at))

    def handle_endtag(self, tag: str) -> None:
        assert self._at.tag == tag, f"{tag} ends {self._at.tag}"
        assert self._at.parent is not None
        self._at = self._at.parent

    def handle_data(self, data: str) -> None:
        self._at.own.append(data)

    def table(self, name: str) -> list[list[str]]:
        region = self.root.one("div", **{"aria-label": name, "role": "region"})
        return [[cell.text for cell in row.children] for row in region.one("tbody").all("tr")]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.root.one("script", id="data").text)


def account_of(place: Path, name: str, **options: int) -> Account:
    engine = open_engine(place)
    with engine.connect() as connection:
        inspection = Inspection(connection)
        found = gather(inspection, inspection.subject(name), **options)
    engine.dispose()
    return found
