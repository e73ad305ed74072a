"""Bayesian networks in context: the code behind an executable book.

Read the modules in this order: priors, networks, sources, encoding, sampling, estimators, rows, averages, orders,
structures, searches, transformer, incontext, construction, generation, evaluation, heldout, recipes, soap, trained,
training, interventions.
"""

from bnicl.averages import GraphAverage, ModelAverage, baselines
from bnicl.construction import construct_mle_transformer, error_bound
from bnicl.encoding import ABSENT, encode
from bnicl.estimators import MaximumLikelihood, NaiveFrequency, PosteriorMean, Predictor, count
from bnicl.evaluation import (
    best_threshold,
    edge_accuracy,
    evaluate,
    kl_bits,
    mode_accuracy,
    optimum,
    share_of_the_gap,
    shuffle_scores,
    total_variation,
)
from bnicl.generation import generate
from bnicl.heldout import held_out
from bnicl.incontext import InContextTransformer
from bnicl.networks import BayesianNetwork
from bnicl.orders import OrderAverage
from bnicl.priors import Dirichlet, TwoBands, make_generator
from bnicl.recipes import TrainingConfig
from bnicl.rows import Counts
from bnicl.runs import load_results
from bnicl.sampling import Batch, ContextBatches, NetworkPrior, conditional, forward_sample
from bnicl.searches import SearchedGraph, search_graphs
from bnicl.sources import load_network, network_names, random_dag
from bnicl.structures import GivenGraphs, OneOf, RandomGraphs, StructurePrior
from bnicl.trained import TrainedTransformer, load_trained
from bnicl.training import train
from bnicl.transformer import Transformer, TransformerConfig

__version__ = "0.1.0"
__all__ = [
    "ABSENT",
    "Batch",
    "BayesianNetwork",
    "ContextBatches",
    "Counts",
    "Dirichlet",
    "GivenGraphs",
    "GraphAverage",
    "InContextTransformer",
    "MaximumLikelihood",
    "ModelAverage",
    "NaiveFrequency",
    "NetworkPrior",
    "OneOf",
    "OrderAverage",
    "PosteriorMean",
    "Predictor",
    "RandomGraphs",
    "SearchedGraph",
    "StructurePrior",
    "TrainedTransformer",
    "TrainingConfig",
    "Transformer",
    "TransformerConfig",
    "TwoBands",
    "baselines",
    "best_threshold",
    "conditional",
    "construct_mle_transformer",
    "count",
    "edge_accuracy",
    "encode",
    "error_bound",
    "evaluate",
    "forward_sample",
    "generate",
    "held_out",
    "kl_bits",
    "load_network",
    "load_results",
    "load_trained",
    "make_generator",
    "mode_accuracy",
    "network_names",
    "optimum",
    "random_dag",
    "search_graphs",
    "share_of_the_gap",
    "shuffle_scores",
    "total_variation",
    "train",
]
