"""Every row of every table is a config that builds; what is published is readable."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import experiment, spec
from anchors_jax.types import Batch, Targets
from experiments import row, rows
from experiments.anchor_pruning.rows import A, B, C, D, kept, ssd300_shapes
from experiments.runner import plan, resolve

ALL = [
    (paper, table, line)
    for paper in rows.PAPERS
    for table in rows.load(paper).tables
    for line in table.rows
]
METRICS = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AR300", "AR1000"}
METRICS |= {"ARs", "ARm", "ARl", "AP_not_retrained"}


@pytest.mark.parametrize("paper", rows.PAPERS)
@pytest.mark.parametrize("scale", rows.SCALES)
def test_every_row_is_a_config_that_builds_and_survives_json(paper, scale):
    built = set()
    for table in rows.load(paper).tables:
        for line in table.rows:
            if not line.available or line.word(scale) is None:
                with pytest.raises(rows.RowError, match=f"row {line.key} of table"):
                    resolve.config_of(table, line, scale)
                continue
            config = row.get_config(f"{paper}/{table.key}/{line.key}/{scale}")
            text = json.dumps(spec.plain(config))
            assert spec.plain(config) == json.loads(text)
            if text not in built:
                experiment.load(config)
                built.add(text)


def test_every_paper_and_table_says_what_it_is_about():
    for paper in rows.PAPERS:
        loaded = rows.load(paper)
        assert loaded.key == paper
        for table in loaded.tables:
            assert table.title
            assert table.claim.endswith((".", ")"))
            assert table.setting


def test_published_numbers_are_percentages_with_a_source():
    for _, _, line in ALL:
        if line.published is None:
            continue
        assert line.published.source
        for name, value in line.published.metrics.items():
            assert math.isfinite(value)
            if name in METRICS:
                assert 0.0 <= value <= 100.0, (line.key, name)
            else:
                assert name in ("ms", "macs", "boxes")
                assert value > 0.0


def test_published_averages_lie_between_their_parts():
    for _, _, line in ALL:
        if line.published is None or "APl" not in line.published.metrics:
            continue
        found = line.published.metrics
        assert found["AP"] < found["AP50"], line.key
        assert found["AP75"] < found["AP50"], line.key
        assert found["APs"] < found["APm"] < found["APl"], line.key


@pytest.mark.parametrize("scale", ["paper", "bench"])
def test_rows_of_one_table_are_different_trainings(scale):
    for paper in rows.PAPERS:
        seen = {}
        for table, line in resolve.trained(rows.load(paper), scale):
            key = table.key, resolve.fingerprint(resolve.config_of(table, line, scale))
            other = seen.setdefault(key, line)
            # The chosen value of each parameter of FreeAnchor is the same training, on purpose.
            same = other is line or ("(chosen)" in line.label and "(chosen)" in other.label)
            assert same, f"{paper}/{table.key}: {line.key} and {other.key} at {scale}"


def test_rows_that_reuse_a_checkpoint_change_nothing_that_was_trained():
    count = 0
    for _, table, line in ALL:
        if line.reuse is None:
            continue
        for scale in rows.SCALES:
            if line.word(scale) is None:
                continue
            count += 1
            configs = [
                spec.plain(resolve.config_of(table, each, scale))
                for each in (table.row(line.reuse), line)
            ]
            for key in resolve.changes(*configs):
                allowed = resolve.inference_keys(resolve.config_of(table, line, scale))
                assert key.startswith(allowed), f"{table.key}/{line.key} changes {key}"
    assert count


def test_the_same_config_in_two_tables_is_one_training():
    paper = rows.load("semi_anchored")
    ours = [("1", "s5a5"), ("4", "eqn4"), ("5", "sigma09"), ("6", "top1"), ("6", "pos01")]
    for scale in rows.SCALES:
        owners = {
            resolve.owner_of(paper.table(table), paper.table(table).row(line), scale)
            for table, line in ours
        }
        assert owners == {("semi_anchored", "1", "s5a5")}
    # Crowded drawings at bench scale are other data; the paper's data are the same.
    labels = paper.table("3")
    assert resolve.owner_of(labels, labels.row("anchors"), "bench")[1] == "3"
    assert resolve.owner_of(labels, labels.row("anchors"), "paper")[1] == "1"


def test_bench_rows_cost_what_the_bench_costs():
    for _, table, line in ALL:
        if line.available and line.word("bench") is not None and line.config != "configs/bccd.py":
            config = resolve.config_of(table, line, "bench")
            assert plan.steps(experiment.load(config)) <= 1250
            assert config.data.canvases == ((128, 128),)
            assert config.data.batch_size == 8


def test_the_pruned_sets_have_the_published_numbers_of_boxes():
    cells = (1444, 361, 100, 25, 9, 1)
    for removed, boxes in ((A, 7814), (B, 4926), (C, 3121), (D, 1291)):
        levels = kept(removed)
        assert sum(n * len(level) for n, level in zip(cells, levels, strict=True)) == boxes


def batch(side, *, images=2, objects=4):
    """A batch as shapes without values."""

    def of(shape, kind):
        return jax.ShapeDtypeStruct((images, *shape), kind)

    targets = Targets(
        boxes=of((objects, 4), jnp.float32),
        labels=of((objects,), jnp.int32),
        valid=of((objects,), bool),
        crowd=of((objects,), bool),
    )
    return Batch(
        image=of((side, side, 3), jnp.uint8),
        image_size=of((2,), jnp.int32),
        image_id=of((), jnp.int32),
        scale=of((), jnp.float32),
        targets=targets,
    )


def check_traces(config, name):
    """Network, loss and inference fit each other: traced, neither compiled nor run."""
    run = experiment.load(config)
    detector, side = run.detector, run.canvases[0][0]
    variables = jax.eval_shape(
        lambda key: detector.init(key, (side, side)), jax.eval_shape(lambda: jax.random.key(0))
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    terms, _, _ = jax.eval_shape(detector.loss, variables, batch(side), key)
    assert terms, name
    found = jax.eval_shape(detector.predict, variables, batch(side))
    assert found.boxes.shape[0] == 2, name


# One row of each kind of change: head, labels, codec, assigner, likelihood, quality, anchors.
KINDS = (
    "semi_anchored/2/without",
    "semi_anchored/3/fcos_shrink",
    "semi_anchored/6/pos01",
    "paa/components/iou_rule",
    "paa/components/assignment",
    "atss/1/retinanet",
    "atss/7/s3a3",
    "fcos/improvements/centre",
    "fcos/centerness/none",
    "assignment/equal_head/paa",
    "guided_anchoring/4_retinanet/no_shape",
    "guided_anchoring/4_retinanet/gate01",
    "semi_anchored/8/ssd300_sa",
)


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_row_still_fits_together(name):
    check_traces(row.get_config(f"{name}/smoke"), name)


@pytest.mark.slow
def test_every_row_fits_together():
    seen = set()
    for paper, table, line in ALL:
        if line.available and line.word("smoke") is not None:
            config = resolve.config_of(table, line, "smoke")
            detector = json.dumps(spec.plain(config.detector), sort_keys=True)
            if detector not in seen:
                check_traces(config, f"{paper}/{table.key}/{line.key}")
            seen.add(detector)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("semi_anchord/1/s1a1/smoke", "no paper 'semi_anchord'; did you mean 'semi_anchored'"),
        ("semi_anchored/9/s1a1/smoke", "semi_anchored has no table '9'"),
        ("semi_anchored/1/s1a2/smoke", "table 1 has no row 's1a2'; did you mean 's1a1'"),
        ("semi_anchored/1/s1a1/smok", "no scale 'smok'; did you mean 'smoke'"),
        ("semi_anchored/1/s1a1", "is not PAPER/TABLE/ROW/SCALE"),
        ("semi_anchored/7/fcos/paper", "row fcos of table 7 cannot be run: a quoted number"),
        ("semi_anchored/7/r101/bench", "row r101 of table 7 cannot be run: no bench scale"),
    ],
)
def test_wrong_names_are_answered_with_the_nearest(words, message):
    with pytest.raises(rows.RowError, match=message):
        row.get_config(words)


def table_with(**fields):
    line = rows.Row(**{"key": "one", "label": "", "config": "configs/atss.py", **fields})
    return rows.Table(key="t", title="", claim="", setting="", baseline="one", rows=(line,)), line


def test_an_override_of_a_key_that_is_not_there_is_named():
    table, line = table_with(overrides={"detector.objective.asign": 1})
    with pytest.raises(rows.RowError, match="has no key 'asign'; did you mean 'assign'"):
        resolve.config_of(table, line, "smoke")
    table, line = table_with(overrides={"detector.objectiv.assign": 1})
    with pytest.raises(rows.RowError, match="detector has no key 'objectiv'; did you mean"):
        resolve.config_of(table, line, "smoke")


def test_overrides_of_a_row_win_over_those_of_its_table():
    table, line = table_with(
        overrides={"data.batch_size": 4, "train.steps": 7}, at={"smoke": {"train.steps": 9}}
    )
    table = rows.Table(**{**vars(table), "overrides": {"smoke": {"data.batch_size": 6, "seed": 3}}})
    config = resolve.config_of(table, line, "smoke")
    assert (config.data.batch_size, config.train.steps, config.seed) == (4, 9, 3)
    assert resolve.config_of(table, line, "bench").train.steps == 7


def test_configs_of_rows_do_not_share_their_records():
    table = rows.load("atss").table("3")
    one, two = (resolve.config_of(table, table.row("retinanet"), "smoke") for _ in range(2))
    one.detector.objective.assign.positive_iou = 0.9
    assert two.detector.objective.assign.positive_iou == 0.5


def test_shapes_of_the_published_ids():
    """(scale of 300 px, height / width) of ids 0 to 29 as published, 0.224 rounded there."""
    wide = (1, 2, 3, 1 / 2, 1 / 3)
    narrow = (wide[0], wide[1], wide[3])
    levels = ((0.07, narrow, 0.1024), (0.15, wide, 0.224), (0.33, wide, 0.4102))
    levels += ((0.51, wide, 0.5932), (0.69, narrow, 0.7747), (0.87, narrow, 0.9557))
    for ours, (scale, ratios, larger) in zip(ssd300_shapes(), levels, strict=True):
        published = [(300 * scale / r**0.5, 300 * scale * r**0.5) for r in ratios]
        published.append((300 * larger, 300 * larger))
        np.testing.assert_allclose(ours, published, atol=0.5)
