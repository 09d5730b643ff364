"""The searches: a toy worked out by hand, random tables against enumeration, and the moves."""

import itertools

import pytest
from toy_searches import Recorder, random_problem

from anchors_jax.search.layout import Layout
from anchors_jax.search.pareto import Node, insert, ordered
from anchors_jax.search.tree import layer_search, shared_moves, single_moves, tree_search

TOY = Layout((10, 3), (2, 2))
PRICES = (10, 10, 3, 3)


def toy_map(removed):
    """Drop in thousandths from .500: 0 -> 40, 1 -> 15, both 100 more; 3 -> 5, 2 -> 0, both 60."""
    drop = 40 * (0 in removed) + 15 * (1 in removed) + 100 * ({0, 1} <= removed)
    drop += 60 if {2, 3} <= removed else 5 * (3 in removed)
    return (500 - drop) / 1000


def toy_cost(removed):
    return sum(PRICES) - sum(PRICES[n] for n in removed)


def test_the_toy_front_and_exactly_the_nine_evaluated_sets():
    evaluate = Recorder(toy_map)
    found = tree_search(evaluate, toy_cost, single_moves(TOY))
    assert [(set(n.removed), n.map, n.cost) for n in found.front] == [
        ({2}, 0.5, 23),
        ({1, 2}, 0.485, 13),
        ({1, 2, 3}, 0.425, 10),
        ({0, 1, 2}, 0.345, 3),
    ]
    expected = [(), (0,), (1,), (2,), (0, 2), (1, 2), (2, 3), (0, 1, 2), (1, 2, 3)]
    assert set(evaluate.asked) == {frozenset(key) for key in expected}
    assert frozenset() in found.visited


def test_the_toy_front_is_that_of_all_subsets():
    nodes = [
        Node(frozenset(chosen), (toy_map(frozenset(chosen)),), toy_cost(chosen))
        for size in range(4)
        for chosen in itertools.combinations(range(4), size)
    ]
    front = ()
    for node in nodes:
        if node.map >= 0.2:
            front, _ = insert(front, node)
    found = tree_search(Recorder(toy_map), toy_cost, single_moves(TOY))
    assert [(n.map, n.cost) for n in found.front] == [(n.map, n.cost) for n in ordered(front)]


def test_the_first_improvement_is_taken_and_its_siblings_are_not_evaluated():
    table = {frozenset(): 0.5, frozenset({0}): 0.49, frozenset({1}): 0.51, frozenset({2}): 0.6}
    evaluate = Recorder(lambda removed: table.get(removed, 0.0))
    tree_search(evaluate, toy_cost, single_moves(TOY))
    assert frozenset({1}) in evaluate.asked
    assert frozenset({2}) not in evaluate.asked
    assert frozenset({0}) in evaluate.asked


def test_a_free_removal_needs_all_metrics_to_agree():
    # Equal mAP, another AP50: no shortcut, so later siblings are evaluated.
    evaluate = Recorder(
        lambda removed: (0.5, 0.7 - 0.1 * (0 in removed)) if removed else (0.5, 0.7)
    )
    tree_search(evaluate, toy_cost, single_moves(TOY))
    assert frozenset({1}) in evaluate.asked
    assert frozenset({2}) not in evaluate.asked  # {1} is free


@pytest.mark.parametrize(("least", "there"), [(0.2, True), (0.2001, False)])
def test_the_least_map_itself_passes(least, there):
    evaluate = Recorder(lambda removed: 0.2 if removed == {0} else (0.5 if not removed else 0.0))
    found = tree_search(evaluate, toy_cost, single_moves(TOY), min_map=least)
    assert (frozenset({0}) in [n.removed for n in found.front]) == there


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", ["weak", "strict"])
def test_nothing_visited_beats_the_front_and_runs_agree(seed, rule):
    layout = Layout((16, 4, 1), (3, 2, 2))
    metrics, cost = random_problem(seed, layout)
    first, second = Recorder(metrics), Recorder(metrics)
    found = tree_search(first, cost, single_moves(layout), rule=rule)
    again = tree_search(second, cost, single_moves(layout), rule=rule)
    assert found == again
    assert list(first.asked) == list(second.asked)
    assert frozenset(range(7)) not in first.asked
    for node in found.front:
        for removed in found.visited:
            better, cheaper = metrics(removed)[0] - node.map, node.cost - cost(removed)
            assert better <= 0 or cheaper < 0 or (better == 0 == cheaper)


def test_dominated_nodes_can_be_left_unexpanded():
    layout = Layout((16, 4, 1), (3, 2, 2))
    metrics, cost = random_problem(3, layout)
    whole = tree_search(Recorder(metrics), cost, single_moves(layout))
    less = tree_search(Recorder(metrics), cost, single_moves(layout), skip_dominated=True)
    assert less.visited <= whole.visited


@pytest.mark.parametrize("seed", range(3))
def test_layers_end_at_the_cap(seed):
    layout = Layout((16, 4, 1), (4, 2, 5))
    metrics, cost = random_problem(seed, layout)
    evaluate = Recorder(metrics)
    found = layer_search(evaluate, cost, layout, max_anchors_layer=2, min_map=0.0)
    assert found.front
    for node in found.front:
        assert max(layout.counts(node.removed)) <= 2
    # The second level has two anchors from the start: it is passed through.
    assert all(not {4, 5} & set(removed) for removed in evaluate.asked)
    for removed in evaluate.asked:  # one level after the other
        if any(layout.level[n] == 2 for n in removed):
            assert layout.counts(removed)[0] <= 2
    assert layer_search(Recorder(metrics), cost, layout, max_anchors_layer=2, min_map=0.0) == found


def test_layers_take_improvements_as_ordinary_children():
    layout = Layout((1,), (3,))
    values = {(): 0.5, (0,): 0.51, (1,): 0.6, (2,): 0.55}
    evaluate = Recorder(lambda removed: values[tuple(sorted(removed))])
    found = layer_search(evaluate, len_cost(3), layout, max_anchors_layer=2)
    assert len(evaluate.asked) == 4
    assert [set(n.removed) for n in found.front] == [{1}]


def len_cost(size):
    return lambda removed: size - len(removed)


def test_moves_of_a_shared_head():
    layout = Layout((100, 25, 9, 4, 1), (9,) * 5)
    moves = shared_moves(layout)
    children = list(moves(frozenset()))
    assert len(children) == 9 + 5
    assert children[3] == {3, 12, 21, 30, 39}
    assert children[9] == set(range(9))
    # Without the first level, slots are judged on the second.
    below = list(moves(frozenset(range(9)) | {9, 18, 27, 36}))
    assert len(below) == 8 + 4
    everything = frozenset(range(45))
    for child in below:
        assert child < everything
    # One slot left on one level: nothing can go.
    assert list(moves(everything - {44})) == []
    assert list(moves(everything)) == []
    # Two levels with one slot: only whole levels can go, and the slot would be everything.
    assert list(moves(everything - {44, 35})) == [everything - {44}, everything - {35}]


def test_moves_of_single_anchors_leave_one():
    moves = single_moves(Layout((4, 1), (2, 1)))
    assert moves(frozenset({1})) == [{0, 1}, {1, 2}]
    assert list(moves(frozenset({0, 1}))) == []


def test_a_shared_search_on_a_table():
    layout = Layout((16, 4), (2, 2))

    def metrics(removed):
        kept = layout.counts(removed)
        return round(0.3 + 0.05 * min(kept[0], 1) + 0.05 * min(kept[1], 2), 3)

    evaluate = Recorder(metrics)
    found = tree_search(evaluate, len_cost(4), shared_moves(layout))
    assert {2, 3} not in [set(n.removed) for n in found.front if n.map > 0.4]
    for removed in evaluate.asked:
        assert len(removed) < 4
