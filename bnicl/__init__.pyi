"""The public names of bnicl and the module each comes from: the one list, for type checkers and at run time alike."""

from .averages import GraphAverage as GraphAverage
from .averages import ModelAverage as ModelAverage
from .averages import baselines as baselines
from .construction import construct_mle_transformer as construct_mle_transformer
from .counts import Counts as Counts
from .encoding import ABSENT as ABSENT
from .encoding import encode as encode
from .estimators import (
    MaximumLikelihood as MaximumLikelihood,
)
from .estimators import (
    NaiveFrequency as NaiveFrequency,
)
from .estimators import (
    PosteriorMean as PosteriorMean,
)
from .estimators import (
    Predictor as Predictor,
)
from .estimators import (
    count as count,
)
from .evaluation import (
    best_threshold as best_threshold,
)
from .evaluation import (
    edge_accuracy as edge_accuracy,
)
from .evaluation import (
    evaluate as evaluate,
)
from .evaluation import (
    kl_bits as kl_bits,
)
from .evaluation import (
    mode_accuracy as mode_accuracy,
)
from .evaluation import (
    optimum as optimum,
)
from .evaluation import (
    share_of_the_gap as share_of_the_gap,
)
from .evaluation import (
    shuffle_scores as shuffle_scores,
)
from .evaluation import (
    total_variation as total_variation,
)
from .generation import generate as generate
from .heldout import held_out as held_out
from .incomplete import expected_counts as expected_counts
from .incontext import InContextTransformer as InContextTransformer
from .inference import FittedNetwork as FittedNetwork
from .mle_transformer import error_bound as error_bound
from .networks import BayesianNetwork as BayesianNetwork
from .orders import OrderAverage as OrderAverage
from .own import Posterior as Posterior
from .own import fit as fit
from .own import posterior as posterior
from .priors import Dirichlet as Dirichlet
from .priors import TwoBands as TwoBands
from .priors import make_generator as make_generator
from .recipes import TrainingConfig as TrainingConfig
from .runs import load_results as load_results
from .sampling import (
    Batch as Batch,
)
from .sampling import (
    ContextBatches as ContextBatches,
)
from .sampling import (
    NetworkPrior as NetworkPrior,
)
from .sampling import (
    conditional as conditional,
)
from .sampling import (
    forward_sample as forward_sample,
)
from .searches import SearchedGraph as SearchedGraph
from .searches import search_graphs as search_graphs
from .sources import load_network as load_network
from .sources import network_names as network_names
from .sources import random_dag as random_dag
from .structures import (
    GivenGraphs as GivenGraphs,
)
from .structures import (
    OneOf as OneOf,
)
from .structures import (
    RandomGraphs as RandomGraphs,
)
from .structures import (
    StructurePrior as StructurePrior,
)
from .trained import TrainedTransformer as TrainedTransformer
from .trained import load_trained as load_trained
from .training import train as train
from .transformer import Transformer as Transformer
from .transformer import TransformerConfig as TransformerConfig
from .writing import write_bif as write_bif

__version__: str
