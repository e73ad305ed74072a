"""Makes the built pages lighter.

Notebooks to download lose their outputs, and the theme's second copy of its icons, a script of 1.5 MB, goes: the
pages show those of its font.
"""

import json
import re
from pathlib import Path

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"

for path in SITE.glob("_sources/book/*.ipynb"):
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")

ICONS = re.compile(r"<(script|link)[^>]*fontawesome\.js[^>]*>(</script>)?\s*")
for path in SITE.rglob("*.html"):
    path.write_text(ICONS.sub("", path.read_text()))
for path in SITE.glob("_static/scripts/fontawesome.js*"):
    path.unlink()
