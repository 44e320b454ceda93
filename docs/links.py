"""Checks the built site: every link within it leads to a file and, after a #, to an anchor there.

Usage: python docs/links.py docs/_build/html

Addresses elsewhere are not fetched, but listed in external.txt beside the folder.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links = {""}, set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def main(folder: Path) -> None:
    """Prints what leads nowhere, and exits with 1 if anything does."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    external, broken = set(), []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                external.add(link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (target in pages and unquote(parts.fragment) not in pages[target].anchors):
                broken.append(f"{path.relative_to(folder.resolve())}: {link}")
    (folder.parent / "external.txt").write_text("".join(f"{link}\n" for link in sorted(external)))
    links = sum(len(page.links) for page in pages.values())
    print(f"{len(pages)} pages, {links} links, {len(broken)} of them broken; {len(external)} addresses elsewhere")
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
