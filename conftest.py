"""Every test runs the small profile, and every function of the package checks the shapes it is called with."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("BNICL_PROFILE", "smoke")
install_import_hook("bnicl", "beartype.beartype")
