"""Costs of rows: measured by a command, read with care, shown beside what was published."""

import functools
import json

import jax
import made_up_results as made_up
import pytest

from anchors_jax import commands, results, spec
from experiments import rows, speed
from experiments.reporting import html, measured, section, speeds, wording
from experiments.runner import plan

BESIDE = "post-processing ms"


def parts(where, table=None):
    paper = rows.Paper(key="made_up", tables=(table or made_up.table(),))
    groups, left_out = measured.collect(paper, where, stale=made_up.fresh)
    costs, others = speeds.collect(paper, where)
    return section.sections(paper, groups, ("bench",), costs), left_out | others


def cells(part):
    head, body = wording.cells(part)
    return head, {line[0]: dict(zip(head, line, strict=True)) for line in body}


def published_costs():
    """The table of made-up results, with published costs of three rows."""
    ssd = rows.ap(30.0, source="T", ms=98.0, boxes=8732.0, macs=4231.3e6)
    quoted = rows.ap(32.5, source="blog", verified=False, macs=1628.2e6)
    return made_up.table(
        rows=(
            rows.Row(key="base", label="Base", config="a.py", published=ssd),
            rows.Row(key="more", label="More", config="b.py", published=quoted),
            rows.Row(key="other", label="Other", config="c.py"),
            rows.Row(key="far", label="Far", published=rows.ap(40.0, source="T", ms=95.0)),
        )
    )


def test_tables_without_costs_are_as_they_were(tmp_path):
    made_up.write(tmp_path, "base", 0.3)
    (part,), _ = parts(tmp_path, published_costs())
    head, found = cells(part)
    assert head[-3:] == ["ms", "boxes", "macs"]
    assert (found["Base"]["ms"], found["Base"]["boxes"]) == ("(98.0)", "(8,732)")
    assert "Times" not in wording.caption(part)
    (part,), _ = parts(tmp_path)
    assert BESIDE not in cells(part)[0]


def test_costs_stand_beside_published_ones(tmp_path):
    made_up.write(tmp_path, "base", 0.3)
    made_up.write(tmp_path, "more", 0.4)
    made_up.write_costs(tmp_path)
    (part,), left_out = parts(tmp_path, published_costs())
    assert not left_out
    head, found = cells(part)
    assert head[-4:] == ["boxes", "head MACs", BESIDE, "ms"]
    assert head.count("ms") == head.count("boxes") == 1
    assert "macs" not in head
    costs = {name: [line[key] for key in head[-4:]] for name, line in found.items()}
    assert costs["Base"] == ["1,606 (8,732)", "76.8M (4,231.3M)", "1.50", "12.3 (98.0)"]
    assert costs["More"] == ["340", "1,628.2M (1,628.2M†)", "0.25", "8.00"]
    assert costs["Other"] == ["-"] * 4
    assert costs["Far"] == ["-", "-", "-", "(95.0)"]
    said = wording.caption(part)
    assert "one image at a time, median of 7 images" in said
    assert "1 x fast, commit def, JAX 0.1" in said
    page = html.page("Made up", [part], {}, runs=tmp_path)
    assert "<th>head MACs</th>" in page
    assert "<td>12.3 (98.0)</td>" in page


def test_costs_of_rows_without_a_result_are_not_shown(tmp_path):
    made_up.write(tmp_path, "base", 0.3)
    made_up.write_costs(tmp_path)
    (part,), _ = parts(tmp_path)
    assert cells(part)[1]["More | or less"]["ms"] == "-"
    assert cells(part)[1]["Base"]["ms"] == "12.3"


def test_costs_of_rows_that_are_gone_are_left_out(tmp_path):
    made_up.write(tmp_path, "base", 0.3)
    row = made_up.costs()["rows"]["base"]
    path = made_up.write_costs(tmp_path, rows={"base": row, "gone": row})
    (part,), left_out = parts(tmp_path)
    assert part.speed is None
    assert left_out[path] == "there is no row 'gone' any more"


ROW = made_up.costs()["rows"]["base"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no costs"),
        ({"device": None}, "'device' is no str"),
        ({"images": True}, "'images' is no int"),
        ({"rows": []}, "'rows' is no dict"),
        ({"rows": {"base": 3}}, "rows: 'base' is no dict"),
        ({"rows": {"base": {}}}, "rows.base: no key 'ms'"),
        ({"rows": {"base": ROW | {"boxes": "7"}}}, "rows.base: 'boxes' is no number"),
        ({"scale": "paper"}, "says that it is made_up/results/1/speed_paper.json"),
        ({"paper": "atss"}, "says that it is atss/results/1/speed_bench.json"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, content, message):
    path = made_up.write_costs(tmp_path, **(content if isinstance(content, dict) else {}))
    if isinstance(content, str):
        path.write_text(content)
    with pytest.raises(ValueError, match=r"speed_bench\.json") as caught:
        parts(tmp_path)
    assert message in str(caught.value)


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The run of semi_anchored/6/top1 as far as measuring looks: nothing is trained."""
    chosen = {"tables": ("6",), "only": ("top1", "top2"), "scale": "smoke", "seeds": 1}
    found, _ = plan.select(rows.load("semi_anchored"), **chosen)
    (one,) = plan.group(found, tmp_path / "runs")
    one.workdir.mkdir(parents=True)
    config = results.without_folders(spec.plain(one.owner.config()))
    (one.workdir / "result.json").write_text(json.dumps({"full_config": config}))

    def untrained(run, workdir, which):
        assert (workdir, which) == (one.workdir, "latest")
        begin = functools.partial(run.detector.init, canvas=run.canvases[0])
        return jax.device_get(begin(jax.random.key(0))), 1

    monkeypatch.setattr(commands, "load_variables", untrained)
    return one


def test_rows_are_measured_with_their_own_config(trained, tmp_path, capsys):
    where = [f"--workdir={tmp_path}/runs", f"--results={tmp_path}/e", "--scale=smoke"]
    words = ["semi_anchored", "6", *where, "--images=2", "--rows=top2,top1"]
    assert speed.main(words) == 0
    path = tmp_path / "e" / "semi_anchored" / "results" / "6" / "speed_smoke.json"
    content, read = speeds.read(path)
    names = {"device", "commit", "jax", "images", "scale", "paper", "table", "rows"}
    assert content.keys() == names
    assert read.images == 2
    assert list(read.rows) == ["top1", "top2"]  # the table's order
    one, two = read.rows.values()
    assert two["boxes"] == 2 * one["boxes"] > 0  # top_k anchors of each location
    assert two["head_macs"] == one["head_macs"] > 0
    assert one.keys() == set(speeds.NUMBERS)
    assert all(row["ms"] > 0 and row["detect_ms"] > 0 for row in (one, two))
    assert "| top2 | " in capsys.readouterr().out
    # A run of another config is not measured, and what was written stays.
    result = trained.workdir / "result.json"
    changed = json.loads(result.read_text())
    changed["full_config"]["detector"]["objective"]["sigma"] = 0.5
    result.write_text(json.dumps(changed))
    assert speed.main(words) == 1
    assert "holds a run with another config" in capsys.readouterr().err
    assert speeds.read(path)[0] == content


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["semi_anchord"], 2, "did you mean 'semi_anchored'?"),
        (["paa", "--scale=benc"], 2, "no scale 'benc'; did you mean 'bench'?"),
        (["paa", "--image=3"], 2, "no flag '--image'; did you mean '--images'?"),
        (["paa", "--images=0"], 2, "'0' is not a number from 1 on"),
        (["paa", "--config.train.steps=3"], 2, "only where data is kept may be set"),
        (["paa", "--workdir=/no/such"], 1, "no run of paa at bench scale with seed 0 has ended"),
        ([], 2, "usage:"),
    ],
)
def test_mistakes_get_one_sentence(words, status, message, capsys):
    assert speed.main(words) == status
    seen = capsys.readouterr()
    assert message in seen.err + seen.out
    assert len(seen.err.splitlines()) <= 1
