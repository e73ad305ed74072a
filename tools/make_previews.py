"""Writes previews.js beside the built pages: what a link to a theorem, an equation, a figure or a term shows on hover.

`bnicl.previews["book/construction.html#thm-construction"]` is the HTML of the target, its images' addresses from the
root of the site. preview.js shows it; nothing is asked of a server, so it works from the disk, too.
"""

import json
import posixpath
from pathlib import Path
from urllib.parse import urldefrag

from bs4 import BeautifulSoup, Tag

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
LINKS = "article a.internal[href*='#']"


def shown(target: Tag) -> str | None:
    """What of a target a reader wants to see; None for a section and whatever else there is."""
    if target.name == "dt":
        term, meaning = target.get_text().removesuffix("#").strip(), target.find_next_sibling("dd")
        return f"<p><b>{term}</b></p>" + (meaning.decode_contents() if isinstance(meaning, Tag) else "")
    whole = target.name == "figure" or bool({"proof", "math"} & classes(target))
    box = target if whole else target.find_parent("figure")
    return None if box is None else str(box)


def classes(tag: Tag) -> set[str]:
    return {*(tag.get("class") or [])}


def previews(site: Path) -> dict[str, str]:
    """The targets of all links between the pages, as HTML."""
    pages = {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text(), "html.parser")
        for path in site.glob("book/*.html")
    }
    found = dict[str, str]()
    for name, page in pages.items():
        for link in page.select(LINKS):
            address, anchor = urldefrag(str(link["href"]))
            at = posixpath.normpath(posixpath.join(posixpath.dirname(name), address)) if address else name
            target = pages[at].find(id=anchor) if at in pages else None
            if f"{at}#{anchor}" in found or not isinstance(target, Tag) or (text := shown(target)) is None:
                continue
            part = BeautifulSoup(text, "html.parser")
            for extra in part.select(".headerlink, [id]"):
                if "headerlink" in classes(extra):
                    extra.decompose()
                else:
                    del extra["id"]
            for linked in part.select("a"):
                linked.unwrap()
            for image in part.select("img"):
                image["src"] = posixpath.normpath(posixpath.join(posixpath.dirname(at), str(image["src"])))
            found[f"{at}#{anchor}"] = str(part)
    return found


if __name__ == "__main__":
    made = previews(SITE)
    (SITE / "_static" / "previews.js").write_text(f"window.bnicl.previews = {json.dumps(made, ensure_ascii=False)};\n")
