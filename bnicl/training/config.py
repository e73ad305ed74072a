"""What a training run depends on: one frozen configuration, and four recipes that set its defaults.

"fast"   every target of every query is asked at once, after one reading of the context; new tables in each
         batch; the loss is the cross-entropy to the true conditional, which the generator knows; the number of
         rows is drawn anew in each step; attention scores grow with its logarithm. Two layers of width 32.
"optimum"  the same with a loss free of the noise of the tables: the cross-entropy to the exact optimum on the same
         context, which is their mean. Longer contexts, wider feed-forward networks, and SOAP instead of AdamW.
"structure"  the same for graphs that are not known: rows attend to one another and know for which target they are read,
         the network is wider and deeper and starts smaller, the loss is the cross-entropy to the exact optimum on the
         same context, and the optimiser is SOAP, with gradients clipped early.
"published"  the paper's later experiments as its authors' code sets them: one target a batch, and rows that hide what
         follows it; each batch used four times; tables from U(0.1, 0.9), from a pool of 20,000; the total variation to
         the in-context MLE; 200 rows; one number a node. A GPT-2 without positions: four layers of width 256, eight
         heads, dropout. Without dropout and with `multiset` the same function is learnt many times faster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from bnicl.estimators.graphs import OneOf, RandomGraphs
from bnicl.estimators.priors import NetworkPrior, Networks, StructurePrior
from bnicl.networks.graph import BayesianNetwork, kahn_order, reordered
from bnicl.networks.sources import GRAPHS, check_source, is_network_file, load_network
from bnicl.networks.tables import Bands, Dirichlet, Prior, TwoBands, make_generator
from bnicl.transformer.construction import check_room, start_as_construction
from bnicl.transformer.encoding import Encoding
from bnicl.transformer.model import Mask, Transformer, TransformerConfig

Objective = Literal["true", "optimum", "drawn", "mle", "tv", "mse"]
Recipe = Literal["fast", "optimum", "structure", "published"]
PriorName = Literal["dirichlet", "one-band", "two-bands"]
Start = Literal["random", "construction"]
RECIPES: dict[str, dict[str, Any]] = {
    "fast": {"steps": 6000},
    "optimum": {
        "steps": 3000, "objective": "optimum", "max_context": 1024, "d_mlp": 128, "optimizer": "soap", "lr": 8e-3,
        "warmup": 100, "clip": 0.05,
    },
    "structure": {
        "steps": 10_000, "mask": "prefix", "per_target": True, "n_layers": 3, "d_model": 64, "n_heads": 8,
        "d_mlp": 128, "batch": 32, "n_queries": 8, "objective": "optimum", "scaled_init": True, "optimizer": "soap",
        "lr": 8e-3, "warmup": 100, "clip": 0.05,
    },
    "published": {
        "steps": 100_000, "prior": "one-band", "n_tables": 20_000, "min_context": 200, "max_context": 200,
        "short_contexts": 1.0, "batch": 64, "repeats": 4, "one_target": True, "objective": "tv",
        "unmatched": "marginal", "kahn_order": True, "encoding": "raw", "per_target": True, "mask": "none",
        "log_n": False, "multiset": False, "d_model": 256, "n_layers": 4, "n_heads": 8, "d_mlp": 1024,
        "activation": "gelu_tanh", "layer_norm": True, "gpt2": True, "dropout": 0.1, "drop_everywhere": True,
        "lr": 3e-4, "final_lr": 1e-6, "warmup": 2000, "beta_2": 0.999, "weight_decay": 1e-2, "records": 10,
    },
}  # fmt: skip
DISTANCES = {"mle": 1.0, "tv": 0.5, "mse": 0.5}  # objectives that compare with the MLE, and their factors
WEIGHTS, POOL, STEP, HELD_OUT, NOISE = range(5)  # streams of the seed
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class TrainingConfig(BaseModel):
    """All that a training run depends on; immutable, and saved beside the run.

    `recipe` sets the defaults of the other fields; those below are the fast recipe's. Raises ValueError (of
    pydantic) that names the field and its bound.

    >>> config = TrainingConfig(graph="chain7", steps=100)
    >>> TrainingConfig.model_validate_json(config.model_dump_json()) == config
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    # Any source of `load_network`, of which only the graph is used. A graph that is not known is one of several, joined
    # by "+", or a random one: "random5" has 5 nodes.
    graph: str
    recipe: Recipe = "fast"
    seed: NonNegativeInt = 0
    # One of the two. With steps, the same config gives the same weights (on one machine); with seconds, meant for
    # interactive use, the clock decides.
    seconds: Annotated[float, Field(gt=0, le=1e7)] | None = None
    steps: Annotated[int, Field(ge=1, le=10**9)] | None = None

    # the data
    edge_prob: tuple[Probability, Probability] = (0.5, 0.5)  # of random graphs, drawn from this range for each graph
    n_states: Annotated[int, Field(ge=2, le=100)] = 2  # of each node of a random graph or one of the paper's
    joined: bool = False  # nodes of random graphs that would be alone get an edge
    shared_graph: bool = False  # all networks of a batch have one random graph
    shuffled: bool = False  # columns of unknown graphs are permuted, for each network anew
    noise: Share = 0.0  # of the context's values, replaced by random ones; the query's stay
    # of the tables' rows: Dirichlet(alpha); U(0.1, 0.9), the paper's later one; or the two bands of its first version
    prior: PriorName = "dirichlet"
    alpha: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.5  # of the Dirichlet prior
    n_tables: PositiveInt | None = None  # networks in the pool; None: new ones in each batch
    # rows of a context: log N = log min + u^short_contexts (log max - log min), with u uniform on [0, 1] in each step
    min_context: PositiveInt = 1
    max_context: PositiveInt = 512
    short_contexts: Annotated[float, Field(gt=0, le=10)] = 0.4  # 1: log-uniform; less: fewer short contexts
    even_contexts: bool = False  # N itself is uniform, not its logarithm
    batch: PositiveInt = 128  # contexts in a step
    n_queries: PositiveInt = 1  # rows of each context's network that are asked about
    one_target: bool = False  # one drawn target a step instead of all
    repeats: PositiveInt = 1  # steps that use a batch, one after the other
    kahn_order: bool = False  # columns of a known graph in the order in which Kahn's algorithm takes them from a stack

    # the loss: cross-entropy to the true conditional, to its expectation given the context (the exact optimum, the same
    # minimiser without noise) or to the drawn value; the l1 distance to the in-context MLE, half of it (total
    # variation), or half the squared distance
    objective: Objective = "true"
    unmatched: Literal["nan", "marginal"] = "nan"  # the MLE where no row matches: left out, or the target's marginal
    curriculum: bool = False  # over the first half, the targets become askable one at a time

    # the transformer
    encoding: Encoding = "one-hot"
    mask: Mask = "rows"
    positions: bool = False  # a learned vector for each place in the context
    log_n: bool = True
    multiset: bool = True  # equal rows are read once, with their count, where that is shorter
    # The context is read anew for each target, and its rows carry the target's flag; else once for all targets. Where
    # what follows a target says nothing about it, rows are then read up to it: see `TrainedTransformer.read_up_to`.
    per_target: bool = False
    d_model: PositiveInt = 32
    n_layers: PositiveInt = 2
    n_heads: PositiveInt = 2
    d_mlp: PositiveInt = 64
    activation: Literal["relu", "gelu", "gelu_tanh"] = "relu"
    layer_norm: bool = False
    start: Start = "random"  # weights at first: random ones, or the construction's among them
    scaled_init: bool = False  # at first each layer adds less to the stream, the more layers the less
    # GPT-2's habits: biases everywhere, scores divided by sqrt(d_head), weights of 0.02 at first, those that write to
    # the stream smaller by sqrt(2 n_layers); and one logit, of the second state, for nodes of two
    gpt2: bool = False
    dropout: Share = 0.0
    drop_everywhere: bool = False  # embedding and attention weights too, not only what layers write to the stream

    # the optimiser: linear warm-up, then a cosine from lr to final_lr
    optimizer: Literal["adamw", "soap"] = "adamw"
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-2
    final_lr: NonNegativeFloat = 1e-6
    warmup: NonNegativeInt = 50  # steps
    beta_2: Share = 0.99
    weight_decay: NonNegativeFloat = 0.0  # of AdamW
    clip: Annotated[float, Field(gt=0)] = 1.0  # the most that the gradient's norm may be
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products
    records: Annotated[int, Field(ge=1, le=10_000)] = 40  # how often the history notes loss and regret

    @model_validator(mode="before")
    @classmethod
    def _of_the_recipe(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("recipe", "fast") not in list(RECIPES):
            return given
        defaults = RECIPES[given.get("recipe", "fast")]
        budget = given.get("seconds") is not None or given.get("steps") is not None
        return {**{k: v for k, v in defaults.items() if not (budget and k in ("seconds", "steps"))}, **given}

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        networks = self.networks
        if (self.seconds is None) == (self.steps is None):
            raise ValueError(f"steps: expected either seconds or steps, got {self.seconds} and {self.steps}")
        if self.max_context < self.min_context:
            raise ValueError(f"max_context: expected at least min_context = {self.min_context}, got {self.max_context}")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model: expected a multiple of n_heads = {self.n_heads}, got {self.d_model}")
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr: expected at most lr = {self.lr}, got {self.final_lr}")
        if self.dropout and self.multiset:
            raise ValueError("multiset: expected False with dropout, which treats equal rows differently, got True")
        if self.weight_decay and self.optimizer == "soap":
            raise ValueError(f"weight_decay: expected 0 with the optimizer 'soap', got {self.weight_decay}")
        best = networks.optimum()  # refuses what is too large to be measured
        if not self.graph.startswith("random"):
            for name in ("edge_prob", "joined", "shared_graph"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: expected its default for {self.graph!r}, which is not random")
        known = networks.graph_is_known
        if self.shuffled and known:
            raise ValueError(f"shuffled: expected False for {self.graph!r}, whose graph is known, got True")
        distance = self.objective in DISTANCES
        if distance and self.shuffled:
            raise ValueError(
                f"objective: expected 'true', 'optimum' or 'drawn' for shuffled columns, got {self.objective!r}"
            )
        if self.objective == "optimum" and best is None:
            raise ValueError("objective: expected 'true' or 'drawn' where no closed form is known, got 'optimum'")
        if self.noise and (distance or self.objective == "optimum"):
            raise ValueError(f"objective: expected 'true' or 'drawn' with noise, got {self.objective!r}")
        if self.start == "construction":
            if not known:
                raise ValueError(f"start: expected 'random' for {self.graph!r}, whose graph is not known")
            check_room(self._shape(), networks.net)
        if self.gpt2 and set(networks.net.cardinalities) != {2}:
            raise ValueError(f"gpt2: expected False for {self.graph!r}, which has more than two states, got True")
        if self.prior != "dirichlet" and set(networks.net.cardinalities) != {2}:
            raise ValueError(f"prior: expected 'dirichlet' for a graph with more than two states, got {self.prior!r}")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The graphs that `graph` names; a file may have a "+" in its path."""
        whole = is_network_file(self.graph) and Path(self.graph).is_file()
        return (self.graph,) if whole else tuple(self.graph.split("+"))

    @cached_property
    def networks(self) -> Networks:
        """The distribution over networks that training draws from; a file that `graph` names is read once."""
        priors: dict[str, Prior] = {"one-band": Bands(), "two-bands": TwoBands()}
        prior = priors.get(self.prior, Dirichlet(self.alpha))
        if random := re.fullmatch(r"random([1-9]\d?)", self.graph):
            cards = (self.n_states,) * int(random[1])
            graphs = RandomGraphs(cards, self.edge_prob, self.joined, self.shared_graph)
            return StructurePrior(graphs, prior, self.shuffled)
        nets = tuple(self._graph_of(source) for source in self.sources)
        return NetworkPrior(nets[0], prior) if len(nets) == 1 else StructurePrior(OneOf(nets), prior, self.shuffled)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> TrainingConfig:
        """As pydantic's; the copy finds its networks anew."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("networks", None)
        return copy

    def _graph_of(self, source: str) -> BayesianNetwork:
        net = load_network(check_source(source), tables=False)
        net = reordered(net, kahn_order(net)) if self.kahn_order and len(self.sources) == 1 else net
        if self.n_states == 2:
            return net
        if source not in GRAPHS:
            raise ValueError(f"n_states: expected its default for {source!r}, which has its own, got {self.n_states}")
        return replace(net, cardinalities=(self.n_states,) * net.n_nodes, states=())

    def build(self) -> Transformer:
        """The transformer, before its training."""
        model = Transformer(self._shape()).init_weights(
            make_generator(self.seed, WEIGHTS), self.scaled_init or self.gpt2, 0.02 if self.gpt2 else None
        )
        if self.start == "construction":
            return start_as_construction(model, self.networks.net)
        return model

    def _shape(self) -> TransformerConfig:
        cards = self.networks.net.cardinalities
        return TransformerConfig(
            width=len(cards) + 1 + (sum(cards) if self.encoding == "one-hot" else 0),
            n_outputs=sum(cards),
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_head=self.d_model // self.n_heads,
            d_mlp=self.d_mlp,
            activation=self.activation,
            layer_norm=self.layer_norm,
            mask=self.mask,
            n_positions=self.max_context if self.positions else 0,
            log_n=self.log_n,
            scaled_scores=self.gpt2,
            biases=self.gpt2,
            one_logit=self.gpt2,
        )
