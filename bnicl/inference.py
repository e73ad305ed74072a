"""What a network that was fitted to rows says of any node, whatever else is known: P(target | evidence).

Of the network only a part matters: ancestors of the target and of the evidence (the other nodes are *barren*), and of
those what the evidence does not cut off from the target in the moral graph (*d-separation*). What is left is a product
of tables, summed over the unknown nodes:

    P(t | e) proportional to sum_{unknown x} prod_m P(x_m | x_Pa(m)),

one einsum, whose order opt_einsum chooses. Where the evidence holds the target's parents and none of its descendants,
nothing is left but the target's own table, and that is what the constructed transformer reads off the rows.

Reference: D. Koller and N. Friedman, Probabilistic Graphical Models (2009), chapters 3.3, 9 and 12.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.construction import construct_mle_transformer
from bnicl.counts import Counts, Family, unique_rows
from bnicl.encoding import ABSENT, check_states, check_target
from bnicl.networks import BayesianNetwork
from bnicl.priors import ALPHA_RANGE, Seed, check_count, check_number, draw_dirichlet, make_generator

Estimator = Literal["mle", "posterior-mean"]
Evidence = Int64[Tensor, "batch nodes"]
Conditionals = Callable[[Tensor, int], Tensor]

WIDEST = 2**25  # joint states of the largest clique: 256 MiB
EPSILON = 1e-10  # of the constructed transformer
_CHUNK = 256  # queries at once, for their intervals
DRAWS = 1000  # tables drawn from their posterior, for a credible interval
LEVEL = 0.95


class ImpossibleEvidence(ValueError):
    """Evidence of probability 0, or that no row speaks of; `query` says which of the batch."""

    def __init__(self, message: str, query: int) -> None:
        super().__init__(message)
        self.query = query


class Posteriors(NamedTuple):
    """P(target | evidence) for each query, and what it rests on; NaN where a number does not apply.

    probabilities: float64 [batch, card].
    direct: whether the target's own table was all that mattered, bool [batch].
    rows: how many rows the answer rests on, float64 [batch]: if direct, those that agree on the parents, else all.
    unseen: the share of the evidence's probability, float64 [batch], that runs through states of parents that no row
    has; there the MLE says nothing, and the nearest rows stand in.
    low, high: a 95 % credible interval of the posterior mean, over tables drawn from their posterior, [batch, card].
    error: the standard error of samples, [batch, card].
    """

    probabilities: Tensor
    direct: Tensor
    rows: Tensor
    unseen: Tensor
    low: Tensor
    high: Tensor
    error: Tensor

    @classmethod
    def of(
        cls, p: Tensor, rows: Tensor | float, direct: bool = False, unseen: Tensor | float = math.nan,
        between: tuple[Tensor, Tensor] | None = None, error: Tensor | None = None,
    ) -> Posteriors:  # fmt: skip
        """With NaN for what is not given."""
        none, each = torch.full_like(p, math.nan), p[:, 0]
        low, high = between or (none, none)
        return cls(
            p, torch.full(each.shape, direct), torch.zeros_like(each) + rows, torch.zeros_like(each) + unseen,
            low, high, none if error is None else error,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class FittedNetwork:
    """The network of `counts` with tables estimated from them: relative frequencies or posterior means.

    >>> net = BayesianNetwork(("cause", "effect"), ((), (0,)), (2, 2))
    >>> rows = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
    >>> fitted = FittedNetwork(Counts.of([rows], net))
    >>> fitted.posterior(0, torch.tensor([[ABSENT, 1]])).probabilities  # the cause, given its effect
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """

    counts: Counts
    estimator: Estimator = "mle"
    alpha: float = 0.5
    _built: dict[int, Callable[[Tensor], Tensor]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator: expected one of {', '.join(get_args(Estimator))}, got {self.estimator!r}")
        check_number("alpha", self.alpha, *ALPHA_RANGE)

    @property
    def net(self) -> BayesianNetwork:
        return self.counts.net

    def conditionals(self, query: Evidence, target: int) -> Float[Tensor, "batch card"]:
        """P(target | the parents' values in each query): a row of the fitted table."""
        if self.estimator == "mle":
            return self.counts.mle(query, target)
        return self.counts.posterior_mean(query, target, self.alpha)

    def posterior(self, target: int, evidence: Evidence, samples: int | None = None, seed: Seed = 0) -> Posteriors:
        """P(target | evidence) for each query.

        target: a node. evidence: int64 [batch, M], ABSENT where a value is not known, as at the target.
        samples: by so many weighted samples instead of an exact sum, where one table does not answer. seed: of those,
        and of the tables drawn for a credible interval.

        Raises ImpossibleEvidence where a query has probability 0 under the fit, or where its answer would rest on no
        row at all; ValueError where the exact sum is too wide, with its size.
        """
        check_target(target, self.net.cardinalities)
        check_states("evidence", evidence, self.net.cardinalities, absent=True)
        if bool((evidence[:, target] != ABSENT).any()):
            raise ValueError(f"evidence: expected none on the target {self.net.names[target]}, got some")
        if samples is not None:
            check_count("samples", samples)
        generator = make_generator(seed)
        self._check_tables(evidence)
        patterns, which = (evidence != ABSENT).unique(dim=0, return_inverse=True)
        parts, order = [], []
        for i, pattern in enumerate(patterns):
            chosen = (which == i).nonzero()[:, 0]
            try:
                parts.append(self._of_pattern(target, pattern, evidence[chosen], samples, generator))
            except ImpossibleEvidence as error:
                raise ImpossibleEvidence(str(error), int(chosen[error.query])) from None
            order.append(chosen)
        back = torch.cat(order).argsort()
        return Posteriors(*(torch.cat(field)[back] for field in zip(*parts, strict=True)))

    # --- the routes -------------------------------------------------------------------------------

    def _of_pattern(
        self, target: int, known: Tensor, evidence: Evidence, samples: int | None, generator: torch.Generator
    ) -> Posteriors:
        """The answers to queries that know the same nodes."""
        parts = split(self.net, target, {int(m) for m in known.nonzero()[:, 0]})
        matter = sorted({node for m in parts.factors for node in (m, *self.net.parents[m])} - {target})
        different, which = unique_rows(evidence[:, matter])
        first = torch.zeros(len(different), dtype=torch.int64).scatter_(0, which, torch.arange(len(evidence)))
        self._check_possible(parts, evidence)
        asked = evidence[first]
        try:
            if parts.factors == [target] and not parts.hidden:
                answers = self._direct(target, asked)
            elif samples is not None:
                answers = self._sampled(target, asked, samples, generator)
            else:
                answers = self._exact(target, parts, asked, generator)
        except ImpossibleEvidence as error:
            raise ImpossibleEvidence(str(error), int(first[error.query])) from None
        return Posteriors(*(field[which] for field in answers))

    def _direct(self, target: int, evidence: Evidence) -> Posteriors:
        counts = self.counts.given(evidence, target)
        rows = counts.sum(-1)
        if self.estimator == "posterior-mean":
            between = _beta_interval(counts + self.alpha)
            return Posteriors.of(self.conditionals(evidence, target), rows, direct=True, between=between)
        if bool((rows == 0).any()):
            query = int((rows == 0).nonzero()[0, 0])
            said = self._said(evidence[query], self.net.parents[target])
            raise ImpossibleEvidence(
                f"evidence: expected states that a row has, got {said}, which none has: the MLE of "
                f"{self.net.names[target]} is not defined there; {_REMEDY}", query,
            )  # fmt: skip
        p = self._transformer(target)(evidence[:, list(self.net.parents[target])])
        return Posteriors.of(p, rows, direct=True, unseen=0.0)

    def _transformer(self, target: int) -> Callable[[Tensor], Tensor]:
        """The constructed transformer of the target's family, as a function of the parents' states [batch, parents]."""
        if target in self._built:
            return self._built[target]
        net, last = self.net, len(self.net.parents[target])
        nodes = (*net.parents[target], target)
        cards = tuple(net.cardinalities[m] for m in nodes)
        family = BayesianNetwork(tuple(net.names[m] for m in nodes), (*((),) * last, tuple(range(last))), cards)
        empty = tuple(Family(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, c).double()) for c in cards[:-1])
        counts = Counts(family, self.counts.n, (*empty, self.counts.families[target]))
        built = construct_mle_transformer(family, EPSILON, max(1, counts.n), variant="causal", sparse=sum(cards) > 64)
        predict = built.counted(counts)
        self._built[target] = lambda parents: predict(torch.nn.functional.pad(parents, (0, 1)), last)
        return self._built[target]

    def _exact(self, target: int, parts: Parts, evidence: Evidence, generator: torch.Generator) -> Posteriors:
        plan = Plan(self.net, parts.factors, target, set(_known(evidence[0])))
        plan.check_width()
        p, log_z = plan.total(self.conditionals, evidence)
        self._refuse_zero(log_z, evidence)
        if self.estimator == "posterior-mean":
            return Posteriors.of(p, self.counts.n, between=self._credible(plan, evidence, generator))
        unseen = 1 - (plan.total(self._seen_alone, evidence)[1] - log_z).exp()
        if bool((unseen > 1 - 1e-12).any()):
            query = int((unseen > 1 - 1e-12).nonzero()[0, 0])
            raise ImpossibleEvidence(
                f"evidence: expected some that rows speak of, got {self._said(evidence[query])}: every way there leads "
                f"through states of parents that no row has; {_REMEDY}", query,
            )  # fmt: skip
        return Posteriors.of(p, self.counts.n, unseen=unseen.clamp(min=0))

    def _sampled(self, target: int, evidence: Evidence, n: int, generator: torch.Generator) -> Posteriors:
        """Likelihood weighting: unknown nodes are drawn in order, a known one multiplies the weight by its probability.

        The standard error is that of a ratio of means, sqrt(sum w^2 (1[t = k] - p_k)^2) / sum w.
        """
        card, nodes = self.net.cardinalities[target], sorted(ancestors(self.net, [target, *_known(evidence[0])]))
        ps, errors = [], []
        for i, query in enumerate(evidence):
            rows, log_w = query.expand(n, -1).clone(), torch.zeros(n, dtype=torch.float64)
            for m in nodes:
                different, which = self.counts.by_parents(rows, m)
                p = self.conditionals(different, m)[which]
                if int(query[m]) == ABSENT:
                    rows[:, m] = p.multinomial(1, generator=generator)[:, 0]
                else:
                    log_w += p[:, int(query[m])].log()
            if bool(log_w.isneginf().all()):
                raise ImpossibleEvidence(
                    f"evidence: expected some that samples agree with, got {self._said(query, nodes)}, which none of "
                    f"{n:,} does: it is impossible or too rare; {_REMEDY}, or take more samples", i,
                )  # fmt: skip
            w = (log_w - log_w.max()).exp()
            hits = torch.nn.functional.one_hot(rows[:, target], card).double()
            p = (w @ hits) / w.sum()
            ps.append(p)
            errors.append(((w[:, None] * (hits - p)) ** 2).sum(0).sqrt() / w.sum())
        return Posteriors.of(torch.stack(ps), self.counts.n, error=torch.stack(errors))

    # --- parts ------------------------------------------------------------------------------------

    def _check_tables(self, evidence: Evidence) -> None:
        """Raises ImpossibleEvidence where a family is known whole and has probability 0, whether it matters or not."""
        if self.estimator != "mle":
            return
        known = evidence != ABSENT
        for m, parents in enumerate(self.net.parents):
            whole = known[:, [m, *parents]].all(1).nonzero()[:, 0]
            if len(whole):
                p = self.conditionals(evidence[whole], m).gather(1, evidence[whole, m : m + 1])
                log_z = torch.zeros(len(evidence), dtype=torch.float64)
                log_z[whole] = p[:, 0].log()
                self._refuse_zero(log_z, evidence)

    def _check_possible(self, parts: Parts, evidence: Evidence) -> None:
        """Raises ImpossibleEvidence where the evidence that does not matter for the target has probability 0."""
        if self.estimator != "mle":
            return
        for factors in parts.elsewhere:
            plan = Plan(self.net, factors, None, set(_known(evidence[0])))
            if plan.width <= WIDEST:
                self._refuse_zero(plan.total(self.conditionals, evidence)[1], evidence)

    def _refuse_zero(self, log_z: Tensor, evidence: Evidence) -> None:
        impossible = log_z.isneginf().nonzero()[:, 0]
        if len(impossible):
            query = int(impossible[0])
            raise ImpossibleEvidence(
                f"evidence: expected some that is possible, got {self._said(evidence[query])}: its probability is 0 in "
                f"the network fitted to these rows; {_REMEDY}", query,
            )  # fmt: skip

    def _seen_alone(self, query: Evidence, target: int) -> Tensor:
        """As `conditionals`, but 0 where no row agrees on the parents."""
        counts = self.counts.given(query, target)
        return counts / counts.sum(-1, keepdim=True).clamp(min=1e-300)

    def _credible(self, plan: Plan, evidence: Evidence, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The 95 % interval of the answers over tables drawn from their posterior."""

        def drawn(query: Tensor, target: int) -> Tensor:
            different, which = self.counts.by_parents(query, target)
            parameters = self.counts.given(different, target) + self.alpha
            return draw_dirichlet(parameters.expand(n_draws, *parameters.shape), generator)[:, which]

        n_draws, bounds = min(DRAWS, max(1, WIDEST // plan.width)), []
        for part in evidence.split(_CHUNK):
            draws = [plan.total(drawn, part, n_draws)[0] for _ in range(-(-DRAWS // n_draws))]
            bounds.append(np.quantile(torch.cat(draws).numpy(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
        low, high = torch.from_numpy(np.concatenate(bounds, axis=1))
        return low, high

    def _said(self, query: Tensor, nodes: Iterable[int] | None = None) -> str:
        """The values of a query as the reader wrote them."""
        chosen = _known(query) if nodes is None else [m for m in nodes if int(query[m]) != ABSENT]
        named = [f"{self.net.names[m]}={self.net.states[m][int(query[m])]}" for m in chosen]
        return ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")


_REMEDY = "the estimator posterior-mean gives every state some probability, or leave something out"


# --- what matters ---------------------------------------------------------------------------------


class Parts(NamedTuple):
    """The tables that matter.

    factors: the nodes whose tables the answer is made of. hidden: the unknown nodes among them, less the target.
    elsewhere: those that tell of the evidence alone and have unknown nodes, one list for each part that the evidence
    cuts off.
    """

    factors: list[int]
    hidden: set[int]
    elsewhere: list[list[int]]


def ancestors(net: BayesianNetwork, nodes: Iterable[int]) -> set[int]:
    """The nodes and all that lead to them."""
    found, todo = set[int](), list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(net.parents[node])
    return found


def split(net: BayesianNetwork, target: int, known: set[int]) -> Parts:
    """What of the network matters for P(target | known), and what tells of the evidence alone.

    Two ancestors belong together if they share a table and neither is known: the parts of the moral graph without the
    known nodes.

    >>> split(BayesianNetwork(("a", "b", "c"), ((), (0,), (1,)), (2, 2, 2)), 2, {1})
    Parts(factors=[2], hidden=set(), elsewhere=[[0, 1]])
    """
    import networkx as nx

    graph = nx.Graph()
    relevant = sorted(ancestors(net, [target, *known]))
    for m in relevant:
        table = ("table", m)
        graph.add_node(table)
        graph.add_edges_from((table, node) for node in (m, *net.parents[m]) if node not in known)
    factors: list[int] = []
    hidden: set[int] = set()
    elsewhere = []
    for part in nx.connected_components(graph):
        tables = sorted(node[1] for node in part if isinstance(node, tuple))
        if target in part:
            factors, hidden = tables, {node for node in part if not isinstance(node, tuple)} - {target}
        elif len(part) > len(tables) and any(m in known for m in tables):
            elsewhere.append(tables)
    return Parts(factors, hidden, sorted(elsewhere))


class Plan:
    """A sum of products of tables, for queries that know the same nodes: in which order it is done.

    width: the joint states of the largest clique of the elimination: the product of the cardinalities that meet in one
    step.
    """

    def __init__(self, net: BayesianNetwork, factors: Sequence[int], target: int | None, known: set[int]) -> None:
        import opt_einsum

        self.net, self.factors, self.known = net, factors, known
        scope = sorted({node for m in factors for node in self._free(m)})
        symbol = {node: opt_einsum.get_symbol(i + 2) for i, node in enumerate(scope)}  # a is for draws, b for the batch
        self.terms = ["".join(symbol[node] for node in self._free(m)) for m in factors]
        self.out = "" if target is None else symbol[target]
        shapes = [tuple(net.cardinalities[node] for node in self._free(m)) for m in factors]
        self.path, about = opt_einsum.contract_path(",".join(self.terms) + "->" + self.out, *shapes, shapes=True)
        size = {symbol[node]: net.cardinalities[node] for node in scope}
        steps = [set(step[2].partition("->")[0]) - {","} for step in about.contraction_list]
        self.width = max(math.prod(size[s] for s in step) for step in steps)

    def check_width(self) -> None:
        """Raises ValueError with the size of a sum that is too wide, and the way out."""
        if self.width > WIDEST:
            raise ValueError(
                f"evidence: expected a sum over at most {WIDEST:,} joint states at once, got {self.width:,} (the "
                f"largest clique of {len(self.factors)} tables); --samples 100000 gives the answer with its standard "
                f"error"
            )

    def _free(self, m: int) -> list[int]:
        """The unknown nodes of a table, in the order of its axes."""
        return [node for node in (*self.net.parents[m], m) if node not in self.known]

    def total(self, conditionals: Conditionals, evidence: Evidence, draws: int | None = None) -> tuple[Tensor, Tensor]:
        """The target's distribution [(draws,) batch, card], and the logarithm of the sum, -inf where it is 0.

        conditionals: of queries and a node, [batch, card], or [draws, batch, card] where `draws` are given.
        """
        step = max(1, WIDEST // (self.width * (draws or 1)))
        parts = [self._sum(conditionals, part, draws) for part in evidence.split(step)]
        total = torch.cat([part for part, _ in parts], dim=-2)
        z = total.sum(-1)
        return total / z[..., None], z.log() + torch.cat([scale for _, scale in parts], dim=-1)

    def _sum(self, conditionals: Conditionals, evidence: Evidence, draws: int | None) -> tuple[Tensor, Tensor]:
        """The answer up to a factor, [(draws,) batch, card or 1], and the logarithm of that factor.

        Each step divides by its largest number: a product of hundreds of probabilities leaves float64.
        """
        import opt_einsum

        lead = {"a": draws} if draws else {}
        sizes = {**lead, "b": len(evidence)}
        work = []
        for m, term in zip(self.factors, self.terms, strict=True):
            batched = not self.known.isdisjoint((m, *self.net.parents[m]))
            work.append(("".join(lead) + "b" * batched + term, self._factor(m, batched, conditionals, evidence)))
        log_scale = torch.zeros(tuple(sizes.values()), dtype=torch.float64)
        for step in self.path:
            chosen = [work.pop(i) for i in sorted(step, reverse=True)]
            met, wanted = ({s for term, _ in some for s in term} for some in (chosen, work))
            inner = sorted((met & (wanted | set(self.out))) - {*"ab"})
            outer = [s for s in sizes if s in met]
            term = "".join(outer + inner)
            value = opt_einsum.contract(",".join(t for t, _ in chosen) + "->" + term, *(x for _, x in chosen))
            top = value.flatten(len(outer)).amax(-1) if inner else value
            top = torch.where(top > 0, top, 1.0)
            log_scale = log_scale + top.log().reshape([n if s in outer else 1 for s, n in sizes.items()])
            work.append((term, value / top[(..., *[None] * len(inner))]))
        ((term, value),) = work
        value = value if self.out else value[..., None]
        value = value if "b" in term else value.unsqueeze(-2)
        return value.expand(*sizes.values(), -1), log_scale

    def _factor(self, m: int, batched: bool, conditionals: Conditionals, evidence: Evidence) -> Tensor:
        """A table at the evidence: [(draws,) (batch,) *free parents, card if m is free]."""
        free = [node for node in self.net.parents[m] if node not in self.known]
        cards = [self.net.cardinalities[node] for node in free]
        grid = torch.cartesian_prod(*(torch.arange(card) for card in (*cards, 1))).reshape(-1, len(cards) + 1)[:, :-1]
        rows = (evidence if batched else evidence[:1]).repeat_interleave(len(grid), 0)
        rows[:, free] = grid.repeat(len(rows) // len(grid), 1)
        p = conditionals(rows, m)
        if m in self.known:
            p = p.gather(-1, rows[:, m : m + 1].expand(*p.shape[:-1], 1))[..., 0]
            return p.reshape(*p.shape[:-1], -1, *cards)
        p = p.reshape(*p.shape[:-2], -1, *cards, self.net.cardinalities[m])
        return p if batched else p.squeeze(p.ndim - len(cards) - 2)


def _known(query: Int64[Tensor, " nodes"]) -> list[int]:
    return [int(m) for m in (query != ABSENT).nonzero()[:, 0]]


def _beta_interval(parameters: Float[Tensor, "batch card"]) -> tuple[Tensor, Tensor]:
    """The 95 % interval of each entry of a Dirichlet: it is Beta(a_k, sum a - a_k)."""
    from scipy.special import betaincinv

    own, rest = parameters.numpy(), (parameters.sum(-1, keepdim=True) - parameters).numpy()
    low, high = (torch.from_numpy(betaincinv(own, rest, q)) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return low, high
