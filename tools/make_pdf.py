"""Writes _build/book.pdf: every page in the order of the contents, printed by headless chromium, with an outline.

python -m tools.make_pdf, after make book. The pages are the same as on the screen; their print style leaves out what
needs a screen.
"""

import io
import shutil
import sys
from pathlib import Path

import yaml
from playwright.sync_api import PdfMargins, sync_playwright
from pypdf import PdfReader, PdfWriter
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
SITE, OUT = ROOT / "_build" / "html", ROOT / "_build" / "book.pdf"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
CONTENTS = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [CONTENTS["root"], *(chapter["file"] for part in CONTENTS["parts"] for chapter in part["chapters"])]
MARGIN: PdfMargins = {"top": "16mm", "bottom": "16mm", "left": "16mm", "right": "16mm"}
FOOT = '<div style="width: 100%; text-align: center; font-size: 8pt"><span class="pageNumber"></span></div>'


def main() -> None:
    if CHROMIUM is None or not (SITE / "book" / "index.html").is_file():
        sys.exit("make_pdf: expected chromium and the pages that make book builds, got one of them at most")
    book = PdfWriter()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        for name in tqdm(PAGES, desc="printing", disable=None):
            page.goto((SITE / f"{name}.html").as_uri())
            page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
            title = page.locator("article h1").first.inner_text().removesuffix("#")
            printed = page.pdf(format="A4", margin=MARGIN, display_header_footer=True, header_template="<i></i>",
                               footer_template=FOOT)  # fmt: skip
            at = len(book.pages)
            book.append(PdfReader(io.BytesIO(printed)), import_outline=False)
            book.add_outline_item(title=title, page_number=at)
        browser.close()
    book.add_metadata({"/Title": "Bayesian networks in context"})
    book.compress_identical_objects(remove_duplicates=True, remove_unreferenced=True)
    partial = OUT.with_suffix(".part")
    book.write(partial)
    partial.rename(OUT)
    print(f"pdf: {OUT.relative_to(ROOT)}, {len(book.pages)} pages, {OUT.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
