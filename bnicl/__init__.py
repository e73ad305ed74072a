"""Bayesian networks in context: the code behind an executable book.

Parts, in the order of the paper: networks, estimators, transformer, training, evaluation; then figures, readable
(tables), files and edges, own (a network and rows of the reader's own), batch (chapters as programs) and the command
line.

The public names are those of `__init__.pyi`; each is imported when it is first used.
"""

import os

import lazy_loader

# Before torch is imported: threads that wait must not take the processor from those that work, ours or another's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
