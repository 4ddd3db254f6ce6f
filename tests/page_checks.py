"""Checks of a page without a browser: is it well formed, complete and self-contained?"""

import html.parser
import re
from pathlib import Path

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(html.parser.HTMLParser):
    """A parsed page. Fails on tags that do not nest, and on ids that are not unique.

    tags: [(tag, {attribute: value})] in order; words: its texts, in order, without styles.
    """

    def __init__(self, content: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert not self._open, f"not closed: {self._open}"
        ids = [a["id"] for _, a in self.tags if "id" in a]
        assert len(ids) == len(set(ids)), f"an id stands twice: {sorted(ids)}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data):
        if data.strip() and self._open and self._open[-1] != "style":
            self.words.append(data.strip())

    def count(self, tag: str, **attributes: str) -> int:
        """Counts tags by attributes; `class_` matches one of the class names."""
        kind = attributes.pop("class_", "")
        return sum(
            t == tag
            and (not kind or kind in a.get("class", "").split())
            and all(a.get(k) == v for k, v in attributes.items())
            for t, a in self.tags
        )

    def headings(self) -> list[str]:
        """Returns the ids of its sections, in order."""
        return [a["id"] for t, a in self.tags if t == "section"]


def check(content: str | Path) -> Page:
    """Parses a page and fails if it is not well formed or would load anything from the network."""
    content = content.read_text() if isinstance(content, Path) else content
    page = Page(content)
    assert content.startswith("<!doctype html>")
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            address = attributes.get(name, "#")
            beside = tag == "a" and not re.match(r"\w+:|/", address)  # a link to another page
            assert beside or address.startswith(("#", "data:")), f"<{tag} {name}={address[:80]!r}>"
    styles = re.findall(r"<style>(.*?)</style>", content, re.DOTALL)
    styles += [a["style"] for _, a in page.tags if "style" in a]
    assert not [s for s in styles if "url(" in s or "@import" in s]
    targets = {a["href"][1:] for t, a in page.tags if t == "a" and a["href"].startswith("#")}
    assert targets <= {a.get("id") for _, a in page.tags}
    places = [a.get(k, "") for _, a in page.tags for k in ("d", "x", "y", "cx", "cy", "height")]
    assert not [p for p in places if re.search("nan|inf", p)], "drawn at a number that is none"
    return page
