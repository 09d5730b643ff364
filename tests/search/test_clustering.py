"""Clusters of box sizes against slow programs written from the page, and what must always hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors
from anchors_jax.search import clustering, clustering_centres, clustering_levels, clustering_seeds

METHODS = ("kmeans", "kmedians", "kmedoids")


def iou(boxes, shapes):
    """IoU of all pairs of sizes that share a centre."""
    boxes, shapes = np.asarray(boxes, np.float64)[:, None], np.asarray(shapes, np.float64)[None]
    shared = np.minimum(boxes, shapes).prod(-1)
    return shared / (boxes.prod(-1) + shapes.prod(-1) - shared)


def lloyd(wh, centres, method, *, tolerance=1e-3, max_iter=300):
    """The iteration of the module's head; returns the best centres by area, and the steps."""
    best, least, before, step = centres, np.inf, np.inf, 0
    while step < max_iter:
        step += 1
        distance = 1 - iou(wh, centres)
        owner, average = distance.argmin(1), distance.min(1).mean()
        if average < least:
            best, least = centres, average
        new = centres.copy()
        for j in range(len(centres)):
            mine = wh[owner == j]
            if len(mine) and method == "kmeans":
                new[j] = mine.mean(0)
            elif len(mine) and method == "kmedians":
                new[j] = np.median(mine, 0)
            elif len(mine):
                new[j] = mine[(1 - iou(mine, mine)).sum(0).argmin()]
        if (1 - tolerance) * before <= average <= before or (new == centres).all():
            break
        centres, before = new, average
    return best[np.argsort(best.prod(1))], step


def sizes(count, seed=0, decimals=3):
    return np.exp(np.random.default_rng(seed).normal(3, 0.8, (count, 2))).round(decimals)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [0, 1])
def test_against_a_slow_program(method, seed):
    wh = sizes(300, seed).astype(np.float32)
    found = clustering.cluster(
        wh, k=5, method=method, init="samples", restarts=1, seed=seed, medoid_sample=None
    )
    first = wh[np.random.default_rng(seed).choice(300, 5, replace=False)].astype(np.float64)
    shapes, steps = lloyd(wh.astype(np.float64), first, method)
    np.testing.assert_allclose(found.shapes, shapes, rtol=1e-3)
    assert abs(int(found.iterations[0]) - steps) <= 1
    overlap = iou(wh, found.shapes)
    np.testing.assert_allclose(found.iou, overlap.max(1), atol=1e-5)
    np.testing.assert_array_equal(found.label, overlap.argmax(1))
    assert found.average_iou == pytest.approx(overlap.max(1).mean(), abs=1e-5)
    assert found.restarts[0] == pytest.approx(found.average_iou, abs=1e-5)


def test_iou_of_shapes_that_share_a_centre():
    best, label = clustering.best_overlap(np.float32([[2, 1]]), np.float32([[1, 2]]))
    assert best[0] == pytest.approx(1 / 3)
    assert label[0] == 0
    # YOLOv2's priors on a box of 0.3 x 0.4 of 13 cells.
    priors = np.float32(
        [[0.57273, 0.677385], [1.87446, 2.06253], [3.33843, 5.47434], [7.88282, 3.52778],
         [9.77052, 9.16828]]
    )  # fmt: skip
    best, label = clustering.best_overlap(np.float32([[3.9, 5.2]]), priors)
    assert (label[0], round(float(best[0]), 4)) == (2, 0.8190)
    assert clustering.best_overlap(np.zeros((0, 2), np.float32), priors)[0].shape == (0,)


def test_many_blocks_agree_with_one_table():
    wh = sizes(20_000).astype(np.float32)
    shapes = sizes(7, seed=9).astype(np.float32)
    best, label = clustering.best_overlap(wh, shapes)
    table = iou(wh, shapes)
    np.testing.assert_allclose(best, table.max(1), atol=1e-5)
    assert (label == table.argmax(1)).mean() > 0.999


@pytest.mark.parametrize("method", METHODS)
def test_equal_boxes_end_at_once(method):
    found = clustering.cluster(np.full((50, 2), 7.5, np.float32), k=5, method=method, restarts=4)
    assert found.average_iou == 1.0
    assert (found.iterations == 1).all()
    np.testing.assert_array_equal(found.shapes, np.full((5, 2), 7.5))
    assert (found.label == 0).all()


@pytest.mark.parametrize("init", ["kmeans++", "samples"])
@pytest.mark.parametrize("method", METHODS)
def test_as_many_clusters_as_boxes(method, init):
    wh = sizes(5, seed=4).astype(np.float32)
    found = clustering.cluster(wh, k=5, method=method, init=init, restarts=4)
    assert found.average_iou == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.shapes, wh[np.argsort(wh.prod(1))], rtol=1e-6)
    assert sorted(found.label.tolist()) == list(range(5))


def test_one_cluster_in_closed_form():
    wh = np.float32([[1, 8], [3, 4], [10, 2], [4, 4]])
    mean = clustering.cluster(wh, k=1, restarts=4, tolerance=0.0)
    # The first centre is a box; the mean is kept only where it fits better.
    candidates = np.concatenate([wh, wh.mean(0, keepdims=True)])
    assert mean.average_iou == pytest.approx(iou(wh, candidates).mean(0).max(), abs=1e-6)
    for method, centre in (("kmedians", np.median(wh, 0)), ("kmedoids", [4, 4])):
        found = clustering.cluster(wh, k=1, method=method, restarts=4)
        assert found.average_iou >= iou(wh, [centre]).mean() - 1e-6
    medoid = wh[(1 - iou(wh, wh)).sum(0).argmin()]
    found = clustering.cluster(wh, k=1, method="kmedoids", restarts=4, tolerance=0.0)
    np.testing.assert_array_equal(found.shapes, medoid[None])


@pytest.mark.parametrize("method", METHODS)
def test_well_separated_shapes_are_found_in_any_order(method):
    rng = np.random.default_rng(0)
    centres = np.float32([[4, 5], [30, 8], [9, 40], [70, 80], [300, 200]])
    wh = (np.repeat(centres, 40, 0) * rng.uniform(0.97, 1.03, (200, 2))).astype(np.float32)
    found = clustering.cluster(wh, k=5, method=method, restarts=4)
    np.testing.assert_allclose(found.shapes, centres[np.argsort(centres.prod(1))], rtol=0.03)
    assert (np.diff(found.shapes.prod(1)) > 0).all()
    order = rng.permutation(200)
    again = clustering.cluster(wh[order], k=5, method=method, restarts=4)
    np.testing.assert_allclose(again.shapes, found.shapes, rtol=0.01)
    np.testing.assert_array_equal(again.label, found.label[order])
    same = clustering.cluster(wh, k=5, method=method, restarts=4)
    np.testing.assert_array_equal(same.shapes, found.shapes)


def test_an_empty_cluster_stays_or_moves():
    wh = np.float32([[10, 10]] * 5 + [[11, 10], [40, 5]])
    rng = np.random.default_rng
    seed = next(s for s in range(99) if set(rng(s).choice(7, 3, replace=False)) <= set(range(5)))
    keywords = {"k": 3, "init": "samples", "restarts": 1, "seed": seed, "tolerance": 0.0}
    stays = clustering.cluster(wh, **keywords, max_iter=2)
    assert np.isfinite(stays.shapes).all()
    assert (stays.shapes == 10).all(1).sum() == 2  # two that never had a member
    moves = clustering.cluster(wh, **keywords, move_empty=True)
    assert moves.average_iou == 1.0
    np.testing.assert_array_equal(moves.shapes, [[10, 10], [11, 10], [40, 5]])


def test_more_restarts_are_never_worse_and_samples_of_medoids_are_close():
    wh = sizes(500, seed=3).astype(np.float32)
    few, many = (clustering.cluster(wh, k=5, restarts=r, init="samples") for r in (1, 4))
    assert many.average_iou >= few.average_iou
    assert many.average_iou == pytest.approx(many.restarts.max(), abs=1e-5)
    exact = clustering.cluster(
        wh, k=5, method="kmedoids", init="samples", restarts=1, seed=1, medoid_sample=None
    )
    sampled = clustering.cluster(wh, k=5, method="kmedoids", restarts=4)  # 100 members at most
    assert sampled.average_iou == pytest.approx(exact.average_iou, abs=0.03)
    members = {tuple(box) for box in wh.tolist()}
    assert {tuple(shape) for shape in sampled.shapes.tolist()} <= members


@pytest.mark.parametrize(
    ("wh", "keywords", "message"),
    [
        ([[1, 1]], {"k": 2}, "k = 2 clusters of 1 boxes"),
        ([[1, 1]], {"k": 0}, "k = 0 clusters"),
        ([[2, 2], [1, 0]], {"k": 1}, r"box 1 has the sides \[1.0, 0.0\]"),
        ([[2, 2], [np.nan, 1]], {"k": 1}, "box 1 has the sides"),
        ([[2, 2]], {"k": 1, "restarts": 0}, "restarts = 0"),
        (np.zeros((0, 2)), {"k": 1}, "k = 1 clusters of 0 boxes"),
    ],
)
def test_what_cannot_be_clustered_is_said(wh, keywords, message):
    with pytest.raises(ValueError, match=message):
        clustering.cluster(np.asarray(wh, np.float32), **keywords)


def test_seeds_are_drawn_by_squared_distance():
    wh = np.float32([[10, 10], [10, 20], [10, 40]])
    blocks, weight = clustering._blocks(wh)
    keys = jax.random.split(jax.random.key(0), 3000)
    seeds = np.asarray(clustering_seeds.spread(keys, blocks, weight, 3, k=2))
    index = np.argmin(np.abs(seeds[:, :, None, 1] - wh[None, None, :, 1]), -1)
    assert (index[:, 0] != index[:, 1]).all()
    np.testing.assert_allclose(np.bincount(index[:, 0]) / 3000, 1 / 3, atol=0.04)
    mass = np.square(1 - iou(wh, wh))
    for first in range(3):
        drawn = np.bincount(index[index[:, 0] == first, 1], minlength=3)
        np.testing.assert_allclose(drawn / drawn.sum(), mass[first] / mass[first].sum(), atol=0.06)


def test_the_nth_member_and_medians_by_counting():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (6, 256)).astype(np.int32)
    labels[labels == 2] = 4  # a cluster without members
    ranks = np.array([[0, 3, 7], [1, 100, 200], [0, 0, 0], [5, 5, 6], [0, 1, 500]], np.int32)
    places = np.asarray(
        jax.jit(clustering_centres.nth_members)(jnp.asarray(labels), jnp.asarray(ranks))
    )
    for j in (0, 1, 3, 4):
        np.testing.assert_array_equal(places[j], np.flatnonzero(labels.ravel() == j)[ranks[j]])
    values = np.sort(rng.uniform(0, 9, labels.size)).astype(np.float32).reshape(labels.shape)
    count = np.bincount(labels.ravel(), minlength=5).astype(np.float32)
    found = np.asarray(
        jax.jit(clustering_centres.medians)(
            jnp.asarray(values), jnp.asarray(labels), jnp.asarray(count)
        )
    )
    for j in (0, 1, 3, 4):
        assert found[j] == pytest.approx(np.median(values[labels == j]), abs=1e-6)
    assert np.isfinite(found).all()


def test_levels_by_equal_shares():
    shapes = sizes(9, seed=2)
    levels = clustering_levels.chunks(shapes, 3)
    assert [len(level) for level in levels] == [3, 3, 3]
    areas = np.concatenate(levels).prod(1)
    assert (np.diff(areas) > 0).all()
    assert [len(level) for level in clustering_levels.chunks(shapes, 4)] == [3, 2, 2, 2]
    # YOLOv3's on COCO: 10x13 to 33x23 on stride 8, 116x90 and larger on stride 32.
    yolo = np.array(
        [[373, 326], [10, 13], [16, 30], [62, 45], [33, 23], [30, 61], [156, 198], [59, 119],
         [116, 90]], float
    )  # fmt: skip
    first, _, last = clustering_levels.chunks(yolo, 3)
    assert first.tolist() == [[10, 13], [16, 30], [33, 23]]
    assert last.tolist() == [[116, 90], [156, 198], [373, 326]]


def test_levels_by_size():
    sides = np.array([10.0, 40.0, 160.0])
    shapes = np.array([[1.0, 1.0], [20.0, 20.0], [21.0, 21.0], [900.0, 900.0], [5.0, 20.0]])
    found = clustering_levels.nearest(shapes, sides)
    # 20 lies halfway between 10 and 40 on a log scale: the lower level.
    assert found[0].tolist() == [[1, 1], [20, 20], [5, 20]]
    assert found[1].tolist() == [[21, 21]]
    assert found[2].tolist() == [[900, 900]]
    assert [len(x) for x in clustering_levels.nearest(shapes[:1], sides)] == [1, 0, 0]


def test_folding_is_undone_by_unfolding():
    sides = np.array([10.0, 20.0, 40.0])
    wh = np.float32([[9, 11], [22, 18], [44, 36], [200, 50]])
    folded = clustering_levels.fold(wh, sides)
    np.testing.assert_allclose(folded[1], folded[2], rtol=1e-6)  # the same shape, an octave apart
    levels = clustering_levels.unfold(folded, sides)
    assert [len(level) for level in levels] == [4, 4, 4]
    owner = clustering_levels.nearest_level(wh, sides)
    back = np.stack([levels[level][n] for n, level in enumerate(owner)])
    np.testing.assert_allclose(back, wh, rtol=1e-6)


def test_sides_of_levels():
    present = [np.array([[8.0, 2.0], [4.0, 4.0]]), np.array([[16.0, 16.0]])]
    np.testing.assert_allclose(clustering_levels.sides_of(present), [4, 16])
    ratios = ((2.0,), (2.0, 3.0))
    ladder = anchors.ssd(min_sizes=(30.0, 60.0), max_sizes=(60.0, 111.0), ratios=ratios).sides
    np.testing.assert_allclose(ladder, [42.43, 81.6], 1e-3)
    with pytest.raises(ValueError, match="level 1 has no shape"):
        clustering_levels.sides_of([present[0], np.zeros((0, 2))])
