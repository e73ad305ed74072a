"""What a network that was fitted to rows says of any node, whatever else is known: P(target | evidence).

The answer is a sum of products of tables over the part of the network that matters (`elimination`),

    P(t | e) proportional to sum_{unknown x} prod_m P(x_m | x_Pa(m)).

Where the evidence holds the target's parents and none of its descendants, nothing is left but the target's own table,
and that is what the constructed transformer reads off the rows.

Reference: D. Koller and N. Friedman, Probabilistic Graphical Models (2009), chapters 9, 12.3 and 17.
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

from bnicl.estimators.elimination import WIDEST, Evidence, Parts, Plan, ancestors, known_in, split
from bnicl.estimators.families import Counts
from bnicl.networks.checks import ABSENT, check_count, check_number, check_states, check_target
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.states import unique_rows
from bnicl.networks.tables import ALPHA_RANGE, Seed, draw_dirichlet, make_generator

Estimator = Literal["mle", "posterior-mean"]
FamilyReading = Callable[[Int64[Tensor, "batch parents"]], Float[Tensor, "batch card"]]

LONGEST = 2**35  # comparisons with rows: seconds
_SAMPLES = 2**18  # at once
_CHUNK = 256  # queries at once, for their intervals
DRAWS, FEWEST_DRAWS = 1000, 100  # tables drawn from their posterior, for a credible interval; fewer for a wide sum
LEVEL = 0.95
MOST_SAMPLES = 10**8


class ImpossibleEvidence(ValueError):
    """Evidence of probability 0, or evidence that no row bears on; `query` is its index in the batch."""

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
    low, high: a 95 % credible interval of the posterior mean, equal-tailed, over tables drawn from their posterior,
    [batch, card].
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

    counts: of every family. estimator: "mle" or "posterior-mean", the latter under Dirichlet(alpha) rows.
    reader: answers by the MLE where the target's own table is all that matters, as the constructed transformer does
    (`transformer.construction.read_family`): from the counts and the target it makes a function of the parents' states.
    By default the table itself answers.

    >>> net = BayesianNetwork(("cause", "effect"), ((), (0,)), (2, 2))
    >>> rows = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
    >>> fitted = FittedNetwork(Counts.of([rows], net))
    >>> fitted.posterior(0, torch.tensor([[ABSENT, 1]])).probabilities  # the cause, given its effect
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """

    counts: Counts
    estimator: Estimator = "mle"
    alpha: float = 0.5
    reader: Callable[[Counts, int], FamilyReading] | None = None
    _read: dict[int, FamilyReading] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.estimator, str) or self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator: expected one of {', '.join(get_args(Estimator))}, got {self.estimator!r}")
        check_number("alpha", self.alpha, *ALPHA_RANGE)

    @property
    def net(self) -> BayesianNetwork:
        return self.counts.net

    def conditionals(self, query: Evidence, target: int) -> Float[Tensor, "batch card"]:
        """P(target | the parents' values in each query): a row of the fitted table."""
        return self._rows_of(self.counts.asked(query, target), target)

    def _rows_of(self, asked: Int64[Tensor, "batch parents"], target: int) -> Float[Tensor, "batch card"]:
        """The rows of the fitted table at these states of the parents."""
        if self.estimator == "mle":
            return self.counts.mle_of_parents(asked, target)
        smoothed = self.counts.of_parents(asked, target) + self.alpha
        return smoothed / smoothed.sum(-1, keepdim=True)

    def posterior(self, target: int, evidence: Evidence, samples: int | None = None, seed: Seed = 0) -> Posteriors:
        """P(target | evidence) for each query.

        target: a node. evidence: int64 [batch, M], ABSENT where a value is not known, as at the target.
        samples: how many weighted samples replace the exact sum, where one table is not enough. seed: for these, and
        for the tables drawn for a credible interval.

        Raises ImpossibleEvidence where a query has probability 0 under the fit, or where its answer would rest on no
        row at all; ValueError where the exact sum is too wide, with its size.
        """
        check_target(target, self.net.cardinalities)
        check_states("evidence", evidence, self.net.cardinalities, absent=True)
        if evidence.ndim != 2 or not len(evidence):
            raise ValueError(f"evidence: expected shape [batch, {self.net.n_nodes}], got {tuple(evidence.shape)}")
        if bool((evidence[:, target] != ABSENT).any()):
            raise ValueError(f"evidence: expected none on the target {self.net.names[target]}, got some")
        if samples is not None:
            check_count("samples", samples)
            if samples > MOST_SAMPLES:
                raise ValueError(f"samples: expected at most {MOST_SAMPLES:,}, got {samples:,}")
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
        nodes = {int(m) for m in known.nonzero()[:, 0]}
        parts = split(self.net, target, nodes)
        matter = sorted({node for m in parts.factors for node in (m, *self.net.parents[m])} - {target})
        different, which = unique_rows(evidence[:, matter])
        first = torch.zeros(len(different), dtype=torch.int64).scatter_(0, which, torch.arange(len(evidence)))
        if nodes != set(self.net.parents[target]):  # else a row that agrees on all of it shows that it is possible
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
        asked = evidence[:, list(self.net.parents[target])]
        if self.reader is None:
            return Posteriors.of(self._rows_of(asked, target), rows, direct=True, unseen=0.0)
        if target not in self._read:
            self._read[target] = self.reader(self.counts, target)
        p = self._read[target](asked)
        return Posteriors.of(p, rows, direct=True, unseen=0.0)

    def _exact(self, target: int, parts: Parts, evidence: Evidence, generator: torch.Generator) -> Posteriors:
        plan = Plan(self.net, parts.factors, target, set(known_in(evidence[0])))
        plan.check_width()
        if self.estimator == "mle":
            self._check_search(plan)
        p, log_z = plan.total(self._rows_of, evidence)
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

        The standard error is that of a ratio of means, sqrt(sum w^2 (1[t = k] - p_k)^2) / sum w, and at least that of
        as many independent draws as the weights are worth, (sum w)^2 / sum w^2, with half a draw of each kind more: a
        state that no sample has is not impossible.
        """
        card, nodes = self.net.cardinalities[target], sorted(ancestors(self.net, [target, *known_in(evidence[0])]))
        ps, errors, shares = [], [], []
        for i, query in enumerate(evidence):
            parts = [self._weighted(query, nodes, target, min(n - done, _SAMPLES), generator)
                     for done in range(0, n, _SAMPLES)]  # fmt: skip
            states, log_w, unseen = (torch.cat(each) for each in zip(*parts, strict=True))
            w = (log_w - log_w.max()).exp() if not bool(log_w.isneginf().all()) else torch.zeros_like(log_w)
            shares.append((w * unseen).sum() / w.sum())
            if not bool(w.any()) or bool(shares[-1] > 1 - 1e-12):
                why = "has parents in states that a row has" if bool(w.any()) else "agrees with it"
                raise ImpossibleEvidence(
                    f"evidence: expected some that samples speak of, got {self._said(query)}, where none of {n:,} "
                    f"{why}; {_REMEDY}, or take more samples", i,
                )  # fmt: skip
            hits = torch.nn.functional.one_hot(states, card).double()
            p, worth = (w @ hits) / w.sum(), w.sum() ** 2 / (w**2).sum()
            even = (p * worth + 0.5) / (worth + 1)
            ps.append(p)
            by_ratio = ((w[:, None] * (hits - p)) ** 2).sum(0).sqrt() / w.sum()
            errors.append(torch.maximum(by_ratio, (even * (1 - even) / (worth + 1)).sqrt()))
        return Posteriors.of(torch.stack(ps), self.counts.n, unseen=torch.stack(shares), error=torch.stack(errors))

    def _weighted(
        self, query: Tensor, nodes: Sequence[int], target: int, n: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """n samples: the target's states, the logarithms of weights, and whether parents had states that no row has."""
        rows, log_w = query.expand(n, -1).clone(), torch.zeros(n, dtype=torch.float64)
        unseen = torch.zeros(n, dtype=torch.bool)
        for m in nodes:
            different, which = unique_rows(rows[:, list(self.net.parents[m])])
            p = self._rows_of(different, m)[which]
            if self.estimator == "mle":
                unseen |= (self.counts.of_parents(different, m).sum(-1) == 0)[which]
            if int(query[m]) == ABSENT:
                rows[:, m] = p.multinomial(1, generator=generator)[:, 0]
            else:
                log_w += p[:, int(query[m])].log()
        return rows[:, target], log_w, unseen

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
            plan = Plan(self.net, factors, None, set(known_in(evidence[0])))
            if plan.width <= WIDEST:
                self._refuse_zero(plan.total(self._rows_of, evidence)[1], evidence)

    def _check_search(self, plan: Plan) -> None:
        """Raises ValueError where the nearest rows of all unseen states of parents take too long to find."""
        for m in plan.factors:
            unknown = [self.net.cardinalities[p] for p in self.net.parents[m] if p not in plan.known]
            steps = math.prod(unknown) * len(self.counts.families[m].evidence) * max(1, len(unknown))
            if steps > LONGEST:
                raise ValueError(
                    f"evidence: expected at most {LONGEST:,} comparisons of states of the parents of "
                    f"{self.net.names[m]} with rows, got {steps:,}; the estimator posterior-mean needs none, and "
                    f"--samples 100000 gives the answer with its standard error"
                )

    def _refuse_zero(self, log_z: Tensor, evidence: Evidence) -> None:
        impossible = log_z.isneginf().nonzero()[:, 0]
        if len(impossible):
            query = int(impossible[0])
            raise ImpossibleEvidence(
                f"evidence: expected some that is possible, got {self._said(evidence[query])}: its probability is 0 in "
                f"the network fitted to these rows; {_REMEDY}", query,
            )  # fmt: skip

    def _seen_alone(self, asked: Tensor, target: int) -> Tensor:
        """As `_rows_of`, but 0 where no row has the state of the parents."""
        counts = self.counts.of_parents(asked, target)
        return counts / counts.sum(-1, keepdim=True).clamp(min=1e-300)

    def _credible(self, plan: Plan, evidence: Evidence, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The 95 % interval of the answers over tables drawn from their posterior."""

        def drawn(asked: Tensor, target: int) -> Tensor:
            different, which = unique_rows(asked)
            parameters = self.counts.of_parents(different, target) + self.alpha
            return draw_dirichlet(parameters.expand(n_draws, *parameters.shape), generator)[:, which]

        wanted = max(FEWEST_DRAWS, min(DRAWS, WIDEST // plan.width))
        n_draws, bounds = min(wanted, max(1, WIDEST // plan.width)), []
        for part in evidence.split(_CHUNK):
            draws = torch.cat([plan.total(drawn, part, n_draws)[0] for _ in range(-(-wanted // n_draws))])
            silent = draws.isnan().all(0)  # no drawn table allows the evidence: anything is possible
            draws[0], draws[1] = draws[0].where(~silent, 0.0), draws[1].where(~silent, 1.0)
            bounds.append(np.nanquantile(draws.numpy(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
        low, high = torch.from_numpy(np.concatenate(bounds, axis=1))
        return low, high

    def _said(self, query: Tensor, nodes: Iterable[int] | None = None) -> str:
        """The values of a query as the reader wrote them."""
        chosen = known_in(query) if nodes is None else [m for m in nodes if int(query[m]) != ABSENT]
        named = [f"{self.net.names[m]}={self.net.states[m][int(query[m])]}" for m in chosen]
        return (", ".join(named[:8]) or "none") + (f" and {len(named) - 8} more" if len(named) > 8 else "")


_REMEDY = "the estimator posterior-mean gives every state some probability, or leave something out"


def _beta_interval(parameters: Float[Tensor, "batch card"]) -> tuple[Tensor, Tensor]:
    """The 95 % interval of each entry of a Dirichlet: it is Beta(a_k, sum a - a_k)."""
    from scipy.special import betaincinv

    own, rest = parameters.numpy(), (parameters.sum(-1, keepdim=True) - parameters).numpy()
    low, high = (torch.from_numpy(betaincinv(own, rest, q)) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return low, high
