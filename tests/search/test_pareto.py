"""Insertion into the front, by the weak and the strict rule."""

import pytest

from anchors_jax.search.pareto import Node, insert, ordered, quantize


def node(name, metrics, cost):
    metrics = metrics if isinstance(metrics, tuple) else (metrics,)
    return Node(frozenset({name}), metrics, cost)


@pytest.mark.parametrize("rule", ["weak", "strict"])
def test_better_and_cheaper_replaces(rule):
    old, new = node(1, 0.3, 10), node(2, 0.31, 9)
    assert insert((old,), new, rule=rule) == ((new,), True)
    assert insert((new,), old, rule=rule) == ((new,), False)


def test_equal_map_and_cheaper_replaces_by_the_weak_rule():
    old, new = node(1, (0.3, 0.5), 10), node(2, (0.3, 0.4), 9)
    assert insert((old,), new) == ((new,), True)
    # The other metrics differ: the strict rule keeps the dearer one beside it.
    assert insert((old,), new, rule="strict") == ((old, new), True)
    same = node(3, (0.3, 0.5), 9)
    assert insert((old,), same, rule="strict") == ((same,), True)


@pytest.mark.parametrize("rule", ["weak", "strict"])
def test_equal_map_and_dearer_is_rejected(rule):
    old = node(1, 0.3, 10)
    assert insert((old,), node(2, 0.3, 11), rule=rule) == ((old,), False)


@pytest.mark.parametrize("rule", ["weak", "strict"])
def test_the_same_key_is_not_added_again(rule):
    old = node(1, 0.3, 10)
    assert insert((old,), node(1, 0.9, 1), rule=rule) == ((old,), False)


def test_on_a_full_tie_weak_keeps_the_newcomer_and_strict_the_incumbent():
    old, new = node(1, 0.3, 10), node(2, 0.3, 10)
    assert insert((old,), new) == ((new,), True)
    assert insert((old,), new, rule="strict") == ((old,), False)


def test_a_trade_stays_and_the_front_is_ordered():
    good, cheap = node(1, 0.3, 10), node(2, 0.2, 5)
    front, added = insert((cheap,), good)
    assert added
    assert ordered(front) == (good, cheap)


def test_a_newcomer_may_drop_nodes():
    nodes = tuple(node(n, 0.1 * n, 10 * n) for n in (1, 2, 3, 4))
    front, added = insert(nodes, node(9, 0.35, 15))
    assert added
    assert [n.key for n in ordered(front)] == [(4,), (9,), (1,)]


def test_rounding_makes_equal_what_prints_equal():
    assert quantize((0.25649, 0.2565001, -1.0)) == (0.256, 0.257, -1.0)
    assert quantize((0.12345,), 0.0) == (0.12345,)
    assert quantize((0.2564,)) == quantize((0.2560001,))
