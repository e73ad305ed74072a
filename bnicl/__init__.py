"""Bayesian networks in context: the code behind an executable book.

Read the modules in this order: priors, networks, bif, writing, sources, encoding, sampling, estimators, counts, rows,
averages, orders, structures, searches, transformer, incontext, mle_transformer, construction, generation, incomplete,
elimination, inference, queries, own, evaluation, heldout, recipes, soap, trained, training, interventions.

The public names are those of `__init__.pyi`; each is imported when it is first used.
"""

import os

import lazy_loader

# Before torch is imported: threads that wait must not take the processor from those that work, ours or another's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
