"""Bayesian networks in context: the code behind an executable book.

Read the modules in this order: networks, sampling, encoding, estimators, evaluation.
"""

from bnicl.encoding import ABSENT, encode
from bnicl.estimators import (
    MaximumLikelihood,
    ModelAverage,
    NaiveFrequency,
    PosteriorMean,
    Predictor,
    baselines,
    count,
)
from bnicl.evaluation import evaluate, kl_bits, mode_accuracy, total_variation
from bnicl.networks import (
    BayesianNetwork,
    Dirichlet,
    TwoBands,
    load_network,
    make_generator,
    network_names,
    random_dag,
)
from bnicl.sampling import Batch, ContextBatches, NetworkPrior, conditional, forward_sample

__version__ = "0.1.0"
__all__ = [
    "ABSENT",
    "Batch",
    "BayesianNetwork",
    "ContextBatches",
    "Dirichlet",
    "MaximumLikelihood",
    "ModelAverage",
    "NaiveFrequency",
    "NetworkPrior",
    "PosteriorMean",
    "Predictor",
    "TwoBands",
    "baselines",
    "conditional",
    "count",
    "encode",
    "evaluate",
    "forward_sample",
    "kl_bits",
    "load_network",
    "make_generator",
    "mode_accuracy",
    "network_names",
    "random_dag",
    "total_variation",
]
