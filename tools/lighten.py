"""Makes the built pages lighter.

Figures get a palette of 64 colours, notebooks to download lose their outputs, and the theme's second copy of its
icons, a script of 1.5 MB, goes: the pages show those of its font.
"""

import json
import re
from pathlib import Path

from PIL import Image

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"

for path in SITE.glob("_images/*.png"):
    with Image.open(path) as image:
        if image.mode == "P":
            continue
        flat = Image.new("RGB", image.size, "white")  # figures are drawn on white
        flat.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    part = path.with_suffix(".part")
    flat.quantize(64, dither=Image.Dither.NONE).save(part, "PNG", optimize=True)
    if part.stat().st_size < path.stat().st_size:
        part.replace(path)
    part.unlink(missing_ok=True)

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
