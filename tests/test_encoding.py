import torch
from hypothesis import given, settings
from torch import Tensor

import bnicl
from bnicl.networks.checks import ABSENT
from bnicl.transformer.encoding import blocks, one_hot
from tests.strategies import tasks

Task = tuple[bnicl.BayesianNetwork, Tensor, Tensor, int]


def read_back(columns: Tensor, cardinalities: tuple[int, ...]) -> Tensor:
    """The states that one-hot blocks stand for, ABSENT where a block is zero."""
    own = (columns[..., block] for block in blocks(cardinalities))
    return torch.stack([torch.where(block.sum(-1) > 0, block.argmax(-1), ABSENT) for block in own], dim=-1)


def test_columns_by_hand() -> None:
    context, query = torch.tensor([[[1, 2, 0]]]), torch.tensor([[0, 1, 1]])
    columns = bnicl.encode(context, query, target=2, cardinalities=(2, 3, 2))
    assert columns.tolist() == [
        [
            [0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1],
            [1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0],
        ]
    ]


def test_an_absent_value_is_not_state_0() -> None:
    states = torch.tensor([[0, 0], [ABSENT, 0], [0, ABSENT], [ABSENT, ABSENT]])
    columns = one_hot(states, (2, 3))
    assert len({tuple(column) for column in columns.tolist()}) == 4
    assert columns[3].tolist() == [0] * 5
    assert read_back(columns, (2, 3)).tolist() == states.tolist()


@given(tasks())
@settings(max_examples=40, deadline=None)
def test_the_context_can_be_read_back_and_the_query_stops_at_the_target(task: Task) -> None:
    net, context, query, target = task
    columns = bnicl.encode(context, query, target, net.cardinalities)
    width = sum(net.cardinalities)
    assert tuple(columns.shape) == (len(context), context.shape[1] + 1, width + net.n_nodes + 1)
    states = read_back(columns[..., :width], net.cardinalities)
    assert torch.equal(states[:, :-1], context)
    assert torch.equal(states[:, -1, :target], query[:, :target])
    assert bool((states[:, -1, target:] == ABSENT).all())
    position = columns[..., width:]
    assert bool((position.sum(-1) == 1).all())
    assert position.argmax(-1)[0].tolist() == [net.n_nodes] * context.shape[1] + [target]


@given(tasks())
@settings(max_examples=20, deadline=None)
def test_what_the_query_holds_from_the_target_on_makes_no_difference(task: Task) -> None:
    net, context, query, target = task
    other = query.clone()
    other[:, target:] = ABSENT
    assert torch.equal(
        bnicl.encode(context, query, target, net.cardinalities), bnicl.encode(context, other, target, net.cardinalities)
    )


def test_blocks_lie_side_by_side() -> None:
    assert [(b.start, b.stop) for b in blocks((2, 4, 3))] == [(0, 2), (2, 6), (6, 9)]
