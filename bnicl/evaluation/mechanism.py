"""Interventions: what a transformer's answers depend on, found by changing one thing at a time and asking again.

The algorithm of the theorem makes exact predictions, which the constructed transformer meets: all of the query's
attention is on the rows that agree with it on the target's parents (`attention_by_matches`); changed rows move the
answer as they move the counts (`context_effects`); after layer 1 the query's stream holds the parents' values and no
others (`patched_effects`, `probes`). Each function asks the same of any transformer, on networks of a known graph, and
returns a tidy table with a control beside it.

Known graphs with fresh tables throughout: `networks` draws n_networks contexts of n rows with a query each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.estimators.counting import HasPredictProba, MaximumLikelihood, PosteriorMean
from bnicl.estimators.measures import total_variation
from bnicl.estimators.priors import NetworkPrior
from bnicl.evaluation.evaluate import bootstrap_interval
from bnicl.networks.checks import Context, Query, check_count, check_target
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.states import ravel_states
from bnicl.networks.tables import Seed, make_generator
from bnicl.transformer.model import Hook
from bnicl.transformer.predictor import InContextTransformer

if TYPE_CHECKING:
    import pandas as pd


PARENT, OTHER, TARGET = "a parent", "another node", "the target"
_MADE_UP = 20  # random functions of a control task


# --- attention ------------------------------------------------------------------------------------


def matching_parents(net: BayesianNetwork, context: Context, query: Query, target: int) -> Int64[Tensor, "batch n"]:
    """How many of the target's parents each context row agrees on with the query.

    >>> from bnicl import load_network
    >>> rows = torch.tensor([[[0, 0, 1], [0, 1, 1], [1, 0, 0]]])
    >>> net = BayesianNetwork(("a", "b", "c"), ((), (), (0, 1)), (2, 2, 2))
    >>> matching_parents(net, rows, torch.tensor([[0, 0, 0]]), 2)
    tensor([[2, 1, 1]])
    """
    parents = list(net.parents[target])
    return (context[..., parents] == query[:, None, parents]).sum(-1)


def attention_by_matches(
    predictor: InContextTransformer, networks: NetworkPrior, target: int, n: int = 100, n_networks: int = 256,
    seed: Seed = 0,
) -> pd.DataFrame:  # fmt: skip
    """The query's attention to the context, by how many of the target's parents a row agrees on.

    One row for each layer, head and number of matches: `mass`, the share of the head's attention to the context (not
    to the query itself) that lies on such rows, its 95 % interval, and the control `rows`, the share of such rows: the
    `mass` of a head that ignores them. `to_context` is how much of the head's attention the context gets at all.
    A head's selectivity is `mass` at the largest number of matches; the constructed matching head's is 1. Contexts
    without a row that matches entirely are skipped.
    """
    import pandas as pd

    net = networks.net
    context, query = _asked(networks, target, n, n_networks, seed)
    matches = matching_parents(net, context, query, target)
    found = (matches == len(net.parents[target])).any(1)
    context, query, matches = context[found], query[found], matches[found]
    each = torch.arange(len(net.parents[target]) + 1)
    groups = (matches[..., None] == each).double()  # [batch, n, matches]
    _, cache = _kept(predictor, predictor.columns(context, query, target), target)
    tables = []
    for layer in range(predictor.model.config.n_layers):
        pattern = cache.get(f"blocks.{layer}.attn.hook_pattern")  # none in a layer without attention
        for head in range(0 if pattern is None else pattern.shape[1]):
            assert pattern is not None
            row = pattern[:, head, -1, :-1].double()
            whole = row.sum(-1, keepdim=True)
            mass = torch.einsum("bn,bnm->bm", row / whole.clamp(min=torch.finfo(row.dtype).tiny), groups)
            low, high = bootstrap_interval(mass, seed)
            table = {"mass": mass.mean(0), "mass_low": low, "mass_high": high, "rows": groups.mean((0, 1))}
            about = {"layer": layer + 1, "head": head + 1, "matches": each.tolist(), "to_context": whole.mean().item()}
            tables.append(pd.DataFrame(about).assign(**{key: value.numpy() for key, value in table.items()}))
    return pd.concat(tables, ignore_index=True).assign(target=net.names[target])


def selectivity(
    predictor: InContextTransformer, networks: NetworkPrior, n: int = 100, n_networks: int = 64, seed: Seed = 0
) -> dict[str, float]:
    """By layer, the largest selectivity of a head, averaged over the targets that have parents.

    The control "rows" is the share of rows that match: the selectivity of a head that attends to all rows alike.

    >>> from bnicl import construct_mle_transformer, load_network
    >>> net = load_network("chain5")
    >>> found = selectivity(construct_mle_transformer(net, variant="causal"), NetworkPrior(net))
    >>> round(found["layer 2"], 6)
    1.0
    """
    import pandas as pd

    targets = [m for m, parents in enumerate(networks.net.parents) if parents]
    tables = [attention_by_matches(predictor, networks, target, n, n_networks, seed) for target in targets]
    full = pd.concat([table[table["matches"] == table["matches"].max()] for table in tables])
    best = full.groupby(["layer", "target"])["mass"].max().groupby("layer").mean()
    shares = full.groupby("target")["rows"].first()
    return {**{f"layer {layer}": float(mass) for layer, mass in best.items()}, "rows": float(shares.mean())}


# --- changes of the context -----------------------------------------------------------------------


def context_effects(
    predictor: InContextTransformer, networks: NetworkPrior, target: int, n: int = 100, n_networks: int = 256,
    seed: Seed = 0,
) -> pd.DataFrame:  # fmt: skip
    """How the answer moves when one node's values change in about half of the rows that match the query.

    One row for each context and changed node: its `role` (a parent, another node, the target), and the change of the
    probability of the target's first state: as `measured`, by the in-context MLE (`counted`) and by the
    posterior mean (`smoothed`; under Dirichlet(0.5) where the tables are fixed). At least one matching row is left
    as it is; contexts with fewer than two are skipped. Changing another node changes no count: both are 0 there.
    """
    import pandas as pd

    net = networks.net
    context, query = _asked(networks, target, n, n_networks, seed)
    matching = matching_parents(net, context, query, target) == len(net.parents[target])
    enough = matching.sum(1) >= 2
    context, query, matching = context[enough], query[enough], matching[enough]
    order = torch.rand(matching.shape, generator=make_generator(_number(seed), 1)).masked_fill(~matching, 2).argsort(1)
    place = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    chosen = place < (matching.sum(1, keepdim=True) + 1) // 2
    all_three = (predictor, MaximumLikelihood(net, "nan"), PosteriorMean(net, prior=networks.prior))
    before = [each.predict_proba(context, query, target)[:, 0] for each in all_three]
    tables = []
    for node in range(net.n_nodes):
        changed = context.clone()
        changed[..., node] = torch.where(chosen, (context[..., node] + 1) % net.cardinalities[node], context[..., node])
        after = [each.predict_proba(changed, query, target)[:, 0] for each in all_three]
        changes = ((late - early).double().numpy() for late, early in zip(after, before, strict=True))
        columns = dict(zip(("measured", "counted", "smoothed"), changes, strict=True))
        tables.append(pd.DataFrame(columns).assign(node=net.names[node], role=_role(net, node, target)))
    return pd.concat(tables, ignore_index=True).assign(target=net.names[target])


def slope_and_r2(effects: pd.DataFrame, by: str = "counted") -> tuple[float, float]:
    """The least-squares fit measured = slope * counted, without a constant: the slope, and 1 - residual / total.

    Both sums of squares are taken about zero, the value for no effect. A predictor that counts gets (1, 1), one that
    does not move (0, 0).
    by: the column that predicts, "counted" or "smoothed".

    >>> import pandas as pd
    >>> slope_and_r2(pd.DataFrame({"counted": [0.1, -0.2], "measured": [0.05, -0.1]}))
    (0.5, 1.0)
    """
    x, y = effects[by].to_numpy(), effects["measured"].to_numpy()
    if not (x**2).sum() > 0:
        raise ValueError("effects: expected changes of the counts, got none")
    slope = float((x * y).sum() / (x**2).sum())
    total = float((y**2).sum())
    return slope, 1 - float(((y - slope * x) ** 2).sum()) / total if total > 0 else 0.0


def slopes(effects: pd.DataFrame) -> pd.DataFrame:
    """`context_effects` in short: a row for each changed node of each target (and of each predictor in the table).

    `moved` is the mean absolute change of the answer; `slope` and `r2` are those of `slope_and_r2` for the MLE's
    change, `smoothed_slope` and `smoothed_r2` for the posterior mean's; NaN for nodes whose change affects no count.
    """
    import pandas as pd

    about = [name for name in ("predictor", "target", "node", "role") if name in effects]
    lines = []
    for key, own in effects.groupby(about, sort=False):
        counted = bool((own["counted"] != 0).any())
        fits = [slope_and_r2(own, by) if counted else (math.nan, math.nan) for by in ("counted", "smoothed")]
        lines.append((*key, own["measured"].abs().mean(), *fits[0], *fits[1]))
    return pd.DataFrame(lines, columns=[*about, "moved", "slope", "r2", "smoothed_slope", "smoothed_r2"])


# --- the same answers -----------------------------------------------------------------------------


def distances(
    predictor: HasPredictProba, others: Mapping[str, HasPredictProba], networks: NetworkPrior, n: int = 100,
    n_networks: int = 256, seed: Seed = 0,
) -> pd.DataFrame:  # fmt: skip
    """How far the answers of others are from the predictor's: one row for each, with the mean total variation `tv`
    over contexts and targets and its 95 % interval.

    >>> from bnicl import NaiveFrequency, load_network
    >>> net = load_network("chain5")
    >>> naive = NaiveFrequency(net.cardinalities, "uniform")
    >>> distances(naive, {"the same": naive}, NetworkPrior(net))["tv"].item()
    0.0
    """
    import pandas as pd

    context, query = _asked(networks, 0, n, n_networks, seed)
    targets = range(networks.net.n_nodes)
    own = [predictor.predict_proba(context, query, target).double() for target in targets]
    lines = []
    for name, other in others.items():
        apart = [total_variation(own[m], other.predict_proba(context, query, m).double()) for m in targets]
        means = torch.stack(apart).mean(0)
        low, high = bootstrap_interval(means[:, None], seed)
        lines.append((name, means.mean().item(), low.item(), high.item()))
    return pd.DataFrame(lines, columns=["to", "tv", "tv_low", "tv_high"])


# --- changes of activations -----------------------------------------------------------------------


def patched_effects(
    predictor: InContextTransformer, networks: NetworkPrior, target: int, n: int = 100, n_networks: int = 256,
    seed: Seed = 0,
) -> pd.DataFrame:  # fmt: skip
    """Through which part of the query's column the effect of one of its values goes.

    For each node before the target, the query's value there is replaced by another. `whole` is the mean total
    variation between the answers to the two queries; `patched` that between the answer to the first and that where one
    part is taken from the second and all that follows is computed anew. The parts: what each head gathers for
    the query ("head" 1, 2, ...), and its whole stream after each layer ("head" 0). Nothing but the stream leads to
    the answer where the context does not see the query, so that this one carries the whole effect there.
    """
    import pandas as pd

    net = networks.net
    context, query = _asked(networks, target, n, n_networks, seed)
    columns = predictor.columns(context, query, target)
    first = _answer(predictor, columns, target)
    lines = []
    for node in range(target):
        other = query.clone()
        other[:, node] = (query[:, node] + 1) % net.cardinalities[node]
        second, cache = _kept(predictor, predictor.columns(context, other, target), target)
        whole = total_variation(first, second).mean().item()
        for layer in range(predictor.model.config.n_layers):
            stream, gathered = f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.attn.hook_z"
            hooks = {0: _replacing(stream, cache[stream][:, -1])}
            for head in range(cache[gathered].shape[1] if gathered in cache else 0):
                hooks[head + 1] = _replacing(gathered, cache[gathered][:, head, -1], head)
            for head, hook in hooks.items():
                patched = total_variation(first, _answer(predictor, columns, target, hook)).mean().item()
                lines.append((net.names[node], _role(net, node, target), layer + 1, head, whole, patched))
    table = pd.DataFrame(lines, columns=["node", "role", "layer", "head", "whole", "patched"])
    return table.assign(target=net.names[target])


def ablated_heads(
    predictor: InContextTransformer, networks: NetworkPrior, target: int, n: int = 100, n_networks: int = 256,
    seed: Seed = 0,
) -> pd.DataFrame:  # fmt: skip
    """How far the answer moves when the output of one head for the query is taken away.

    One row for each layer, head and `by`: "zero", or "mean", its mean over the contexts, which keeps what does not
    depend on them. `moved` is the mean total variation between the answers.
    """
    import pandas as pd

    context, query = _asked(networks, target, n, n_networks, seed)
    columns = predictor.columns(context, query, target)
    first, cache = _kept(predictor, columns, target)
    lines = []
    for layer in range(predictor.model.config.n_layers):
        name = f"blocks.{layer}.attn.hook_z"
        if name not in cache:
            continue
        for head in range(cache[name].shape[1]):
            own = cache[name][:, head, -1]
            for by, value in (("zero", torch.zeros_like(own)), ("mean", own.mean(0).expand_as(own))):
                moved = _answer(predictor, columns, target, _replacing(name, value, head))
                lines.append((layer + 1, head + 1, by, total_variation(first, moved).mean().item()))
    return pd.DataFrame(lines, columns=["layer", "head", "by", "moved"]).assign(target=networks.net.names[target])


def probes(
    predictor: InContextTransformer, networks: NetworkPrior, target: int, n: int = 100, n_networks: int = 1024,
    seed: Seed = 0,
) -> pd.DataFrame:  # fmt: skip
    """Whether the values of the nodes before the target can be read, linearly, from the query's stream.

    A linear map to the one-hot value is fitted by least squares on half of the contexts and judged on the other half.
    One row for each node and depth (0: before layer 1): its `accuracy`, that of always saying the most frequent value
    (`most_frequent`), and `control`, the mean accuracy of the same probe for labels that 20 random functions of the
    query's values give: what a probe can learn by heart (Hewitt and Liang 2019). With two binary nodes before the
    target that is nearly everything.
    """
    import pandas as pd

    net = networks.net
    context, query = _asked(networks, target, n, n_networks, seed)
    _, cache = _kept(predictor, predictor.columns(context, query, target), target)
    streams = [cache["blocks.0.hook_resid_pre"][:, -1]]
    streams += [cache[f"blocks.{layer}.hook_resid_post"][:, -1] for layer in range(predictor.model.config.n_layers)]
    which = ravel_states(query, range(target), net.cardinalities)
    lines = []
    for node in range(target):
        card = net.cardinalities[node]
        generator = make_generator(_number(seed), 2, node)
        made_up = [torch.randint(card, (int(which.max()) + 1,), generator=generator)[which] for _ in range(_MADE_UP)]
        usual = query[: len(query) // 2, node].mode().values
        most_frequent = (query[len(query) // 2 :, node] == usual).double().mean().item()
        for depth, stream in enumerate(streams):
            accuracy, *controls = (_read_off(stream.double(), labels, card) for labels in (query[:, node], *made_up))
            control = sum(controls) / len(controls)
            lines.append((net.names[node], _role(net, node, target), depth, accuracy, most_frequent, control))
    columns = ["node", "role", "depth", "accuracy", "most_frequent", "control"]
    return pd.DataFrame(lines, columns=columns).assign(target=net.names[target])


def _read_off(stream: Float[Tensor, "batch d_model"], labels: Int64[Tensor, "batch"], card: int) -> float:
    """The accuracy, on the second half, of a linear probe fitted on the first."""
    half = len(stream) // 2
    inputs = torch.cat([stream, stream.new_ones(len(stream), 1)], dim=1)
    wanted = torch.nn.functional.one_hot(labels, card).to(stream.dtype)
    fit = torch.linalg.lstsq(inputs[:half], wanted[:half], driver="gelsd").solution  # the stream may have zero columns
    return ((inputs[half:] @ fit).argmax(-1) == labels[half:]).double().mean().item()


# --- shared ---------------------------------------------------------------------------------------


def _asked(networks: NetworkPrior, target: int, n: int, n_networks: int, seed: Seed) -> tuple[Tensor, Tensor]:
    """Contexts and their queries."""
    if not networks.graph_is_known:
        raise ValueError(f"networks: expected a NetworkPrior, whose graph is known, got {type(networks).__name__}")
    check_target(target, networks.net.cardinalities)
    rows = networks.sample(check_count("n_networks", n_networks, least=2), check_count("n", n) + 1, seed).rows
    return rows[:, :-1], rows[:, -1]


def _answer(predictor: InContextTransformer, columns: Tensor, target: int, hook: Hook | None = None) -> Tensor:
    with torch.no_grad():
        return predictor.read(predictor.last_column(columns, hook), target)


def _kept(predictor: InContextTransformer, columns: Tensor, target: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The answer, and every activation of the query by its name."""
    cache: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor) -> Tensor:
        cache[name] = activation
        return activation

    return _answer(predictor, columns, target, keep), cache


def _replacing(name: str, value: Tensor, head: int | None = None) -> Hook:
    """A hook that sets the query's activation `name` (of one head) to `value`."""

    def replace(here: str, activation: Tensor) -> Tensor:
        if here != name:
            return activation
        activation = activation.clone()
        activation[(slice(None), -1) if head is None else (slice(None), head, -1)] = value
        return activation

    return replace


def _role(net: BayesianNetwork, node: int, target: int) -> str:
    return TARGET if node == target else PARENT if node in net.parents[target] else OTHER


def _number(seed: Seed) -> int:
    return seed if isinstance(seed, int) else 0
