"""Proposal heads: what they are made of, in numbers of the papers' networks, and their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax.models.proposal_head import GuidedProposalHead, ProposalHead

PYRAMID = tuple(jnp.zeros((1, size, size + 1, 256)) for size in (8, 4))
CELLS = 8 * 9 + 4 * 5


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("head", "anchors", "parameters"),
    [
        # 3x3 tower; 3 logits; 12 codes; all with biases.
        (ProposalHead(), 3 * CELLS, 256 * 256 * 9 + 256 + 257 * 3 + 257 * 12),
        # 3x3 tower; location; shape; offsets and deformable convolution without biases; logit; box.
        (
            GuidedProposalHead(),
            CELLS,
            *[256 * 256 * 9 + 256 + 257 + 257 * 2 + 2 * 72 + 256 * 256 * 9 + 257 + 257 * 4],
        ),
    ],
)
def test_parameters_and_anchors(head, anchors, parameters):
    variables = jax.eval_shape(head.init, jax.random.key(0), PYRAMID)
    found = jax.eval_shape(head.apply, variables, PYRAMID)
    assert count(variables["params"]) == parameters
    assert found.logits.shape == (1, anchors, 1)
    assert found.codes.shape == (1, anchors, 4)
    assert found.maps == ((8, 9), (4, 5))


def test_scores_at_the_start():
    narrow = tuple(x[..., :8] for x in PYRAMID)
    head = ProposalHead(width=8)
    found = head.apply(head.init(jax.random.key(0), narrow), narrow)
    np.testing.assert_allclose(jax.nn.sigmoid(found.logits), 0.5)
    guided = GuidedProposalHead(width=8)
    found = guided.apply(guided.init(jax.random.key(0), narrow), narrow)
    np.testing.assert_allclose(jax.nn.sigmoid(found.logits), 0.5)
    np.testing.assert_allclose(jax.nn.sigmoid(found.cell_logits), 0.01, rtol=1e-5)


def test_anchors_come_row_by_row_and_shape_by_shape():
    head = ProposalHead(width=8, shapes_per_cell=2)
    x = jax.random.normal(jax.random.key(1), (1, 3, 4, 8))
    variables = head.init(jax.random.key(0), [x])
    whole = head.apply(variables, [x]).logits.reshape(3, 4, 2)
    # Of a map that is zero but for one cell's surroundings, only that cell's anchors keep theirs.
    part = head.apply(variables, [x.at[:, :, 3].set(0.0)]).logits.reshape(3, 4, 2)
    np.testing.assert_allclose(part[:, :2], whole[:, :2], rtol=1e-5, atol=1e-7)
    assert (np.abs(part[:, 3] - whole[:, 3]) > 1e-6).all()
