"""Copies MathJax with its fonts out of the installed package, so that the pages need no outside request."""

import shutil
import sysconfig
from pathlib import Path

SOURCE = Path(sysconfig.get_path("purelib")) / "sphinx-mathjax-offline" / "static" / "mathjax"
GOAL = Path(__file__).resolve().parents[1] / "book" / "_static" / "mathjax"
FONTS = Path("output/chtml/fonts/woff-v2")

if not GOAL.exists():
    partial = GOAL.with_name(".mathjax")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(SOURCE / FONTS, partial / FONTS)
    shutil.copy(SOURCE / "tex-chtml-full.js", partial)
    partial.rename(GOAL)
