"""What heads are put together from, and what all of them answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from anchors_jax.models import parts
from anchors_jax.models.dense_head import DenseHead
from anchors_jax.models.guided_head import GuidedHead
from anchors_jax.models.proposal_head import GuidedProposalHead, ProposalHead
from anchors_jax.models.semi_anchored_head import SemiAnchoredHead
from anchors_jax.models.semi_anchored_ssd_head import SemiAnchoredSSDHead
from anchors_jax.models.ssd_head import SSDHead

SHARED = (DenseHead, GuidedHead, ProposalHead, GuidedProposalHead, SemiAnchoredHead)
PER_LEVEL = (SSDHead, SemiAnchoredSSDHead)


@pytest.mark.parametrize("kind", SHARED + PER_LEVEL)
def test_heads_answer_for_themselves(kind):
    head = kind(num_classes=3)
    assert kind.__bases__ == (nn.Module,)
    assert head.per_level == (kind in PER_LEVEL)
    assert isinstance(head, parts.PrunableHead) == (kind in (DenseHead, SSDHead))
    if hasattr(head, "shapes_per_cell"):
        assert head.per_level != isinstance(head.shapes_per_cell, int)


@pytest.mark.parametrize("kind", [*SHARED, SemiAnchoredSSDHead])
@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_scores_at_the_start_lie_between_0_and_1(kind, prior):
    with pytest.raises(ValueError, match=f"prior {prior} is not between 0 and 1"):
        kind(num_classes=3, prior=prior)


def test_rows_are_in_the_order_row_column_group():
    x = jnp.arange(2 * 2 * 3 * 6, dtype=jnp.bfloat16).reshape(2, 2, 3, 6)
    rows = parts.rows_of(x, 2)
    assert rows.dtype == jnp.float32
    np.testing.assert_array_equal(rows, np.arange(72).reshape(2, 18, 2))
    assert parts.rows_of(x).shape == (2, 36)
    assert parts.rows_of(x, 3, 2).shape == (2, 6, 3, 2)
    np.testing.assert_array_equal(
        parts.rows_of(x, 2, chosen=(2, 0))[0, :4], [[4, 5], [0, 1], [10, 11], [6, 7]]
    )


def test_levels_come_one_after_the_other_and_may_be_skipped():
    pyramid = [jnp.full((2, n, n + 1, 1), float(n)) for n in (3, 2, 1)]
    assert parts.maps_of(pyramid) == ((3, 4), (2, 3), (1, 2))
    found = parts.on_levels(
        lambda number, x: None if number == 1 else {"a": parts.rows_of(x), "b": x[:, 0] + number},
        pyramid,
    )
    np.testing.assert_array_equal(found["a"][0], [3] * 12 + [1] * 2)
    np.testing.assert_array_equal(found["b"][1, :, 0], [3] * 4 + [3] * 2)


def test_the_prior_is_the_sigmoid_of_the_bias():
    bias = parts.prior_bias(0.2)(jax.random.key(0), (3,), jnp.float32)
    np.testing.assert_allclose(jax.nn.sigmoid(bias), 0.2, rtol=1e-6)
