"""What functions say about themselves by their signatures."""

import functools

from anchors_jax import hooks


def loss(logits, labels, score, *, gamma=2.0, alpha):
    """Asks for a score; alpha has no default."""


def test_asked_are_the_parameters_without_a_value():
    assert hooks.asks(loss, "score")
    assert hooks.asks(loss, "alpha")
    assert not hooks.asks(loss, "gamma")
    assert not hooks.asks(loss, "step")
    bound = functools.partial(loss, alpha=0.25, score=1.0)
    assert not hooks.asks(bound, "alpha")
    assert hooks.asked(functools.partial(loss, alpha=1), score=3, step=4) == {"score": 3}


def test_keywords_are_bound_or_default_or_absent():
    bound = functools.partial(loss, alpha=0.25)
    assert hooks.keyword(bound, "alpha") == 0.25
    assert hooks.keyword(bound, "gamma") == 2.0
    assert hooks.keyword(loss, "alpha") is None
    assert hooks.keyword(loss, "step") is None
