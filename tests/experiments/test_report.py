"""What becomes of result files: groups, verdicts, Markdown and the page."""

import json

import made_up_results as made_up
import numpy as np
import pytest
from PIL import Image

from experiments import report
from experiments.reporting import folder, html, markdown, measured, section, wording


def parts(where, *, scales=("paper", "bench"), stale=made_up.fresh, **changes):
    paper = made_up.paper(**changes)
    groups, left_out = measured.collect(paper, where, stale=stale)
    return section.sections(paper, groups, scales), left_out


def three_seeds(where, *, gains=(0.010, 0.012, 0.011), scale="bench"):
    for seed, (base, gain) in enumerate(zip((0.30, 0.34, 0.38), gains, strict=True)):
        made_up.write(where, "base", base, seed=seed, scale=scale)
        made_up.write(where, "more", base + gain, seed=seed, scale=scale)


def cells(part):
    head, body = wording.cells(part)
    return {line[0]: dict(zip(head, line, strict=True)) for line in body}


def test_ours_beside_published_with_intervals(tmp_path):
    three_seeds(tmp_path)
    (part,), _ = parts(tmp_path)
    found = cells(part)
    base, more = found["Base"], found["More | or less"]
    assert base["published AP"] == "30.0"
    assert base["our AP"] == "34.0 ± 9.9 (3 seeds)"  # 4.3027 * 4 / sqrt(3)
    assert base["to baseline"] == base["to baseline, by seed"] == "baseline"
    assert more["published AP"] == "32.5†"  # quoted by others
    assert more["to baseline"] == "+2.5"
    assert more["to baseline, by seed"] == "+1.1 ± 0.2"  # by seed, far below 9.9
    assert more["AP50"] == "35.1 (50.0†)"
    assert found["Other"]["our AP"] == "not run"
    assert found["Far"]["our AP"] == "cannot be run: no"
    assert found["Far"]["to baseline"] == "+10.0"
    said = wording.caption(part)
    for word in ("bench scale", "shapes 64 px", "10 steps", "seeds 0, 1, 2", "1 x cpu", "abc"):
        assert word in said
    assert said.endswith("Published: COCO, val2017 (T, blog†).")


def test_a_difference_inside_its_interval_is_not_resolved(tmp_path):
    three_seeds(tmp_path, gains=(0.010, -0.005, 0.002))
    (part,), _ = parts(tmp_path, expect=(("more", "base"),))
    assert cells(part)["More | or less"]["to baseline, by seed"] == "+0.2 ± 1.9, not resolved"
    assert part.word == "not resolved"


def test_one_seed_has_no_interval(tmp_path):
    made_up.write(tmp_path, "base", 0.3)
    made_up.write(tmp_path, "more", 0.5)
    (part,), _ = parts(tmp_path, expect=(("more", "base"),))
    more = cells(part)["More | or less"]
    assert more["our AP"] == "50.0 (one seed, no interval)"
    assert more["to baseline, by seed"] == "+20.0 (one seed, no interval)"
    assert part.word == "not resolved"


@pytest.mark.parametrize(
    ("expect", "word"),
    [
        ((), "no order declared"),
        ((("more", "base"),), "reproduced"),
        ((("base", "more"),), "contradicted"),
        ((("more", "base"), ("base", "more")), "contradicted"),
        ((("more", "base"), ("other", "base")), "reproduced in 1 of 2 orders"),
        ((("other", "base"),), "not run"),
    ],
)
def test_what_becomes_of_a_claim(tmp_path, expect, word):
    three_seeds(tmp_path)
    (part,), _ = parts(tmp_path, expect=expect)
    assert part.word == word
    text = markdown.block(part)
    assert "Claim: Both are better." in text
    assert f"Ours at bench scale: {word}." in text


def test_scales_are_never_averaged(tmp_path):
    three_seeds(tmp_path)
    three_seeds(tmp_path, scale="paper", gains=(0.03, 0.03, 0.03))
    for part, scale, gain in zip(parts(tmp_path)[0], ("paper", "bench"), (3.0, 1.1), strict=True):
        assert part.scale == scale
        assert part.lines[1].difference.mean == pytest.approx(gain)
        assert f"Ours: {scale} scale" in wording.caption(part)
    assert [part.scale for part in parts(tmp_path, scales=("bench",))[0]] == ["bench"]


def test_a_table_that_was_not_run_says_so(tmp_path):
    (part,), _ = parts(tmp_path, expect=(("more", "base"),))
    assert (part.scale, part.word) == (None, "not run")
    assert cells(part)["Base"]["our AP"] == "not run"
    assert "Nothing of this table has been run" in wording.caption(part)
    assert html.page("x", [part], {}, runs=tmp_path).count("<img") == 0


def test_results_of_another_config_are_left_out(tmp_path):
    made_up.write(tmp_path, "base", 0.3)
    path = made_up.write(tmp_path, "more", 0.5)
    made_up.write(tmp_path, "gone", 0.5)
    found, left_out = parts(tmp_path, stale=lambda t, row, r: "old" if row.key == "more" else "")
    assert cells(found[0])["More | or less"]["our AP"] == "not run"
    assert left_out[path] == "old"
    text = markdown.text(found, left_out)
    assert "`more_bench_seed0.json` is left out: old" in text
    assert "`gone_bench_seed0.json` is left out: there is no such row any more" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is no result"),
        ({"commit": 3}, "'commit' is no str"),
        ({"seed": True}, "'seed' is no int"),
        ({"row": None}, "'row' is no str"),
        ({"seed": 4}, "says that it is results/1/base_bench_seed4.json"),
        ({"step": 11}, "differ in step: 11 and 10"),
        ({"data": {"eval": {"make": "m:coco"}}}, "differ in data"),
    ],
)
def test_a_malformed_result_is_named(tmp_path, content, message):
    made_up.write(tmp_path, "base", 0.3, seed=1)
    if isinstance(content, str):
        made_up.write(tmp_path, "base", 0.3).write_text(content)
    else:
        place = tmp_path / "results" / "1" / "base_bench_seed0.json"
        place.write_text(
            json.dumps(made_up.result("base", 0.3, table="1", row="base", seed=0) | content)
        )
    with pytest.raises(ValueError, match=r"base_bench_seed0\.json") as caught:
        parts(tmp_path)
    assert message in str(caught.value)


def test_a_key_that_is_missing_is_named(tmp_path):
    path = made_up.write(tmp_path, "base", 0.3)
    content = json.loads(path.read_text())
    del content["device"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"base_bench_seed0\.json: no key 'device'"):
        parts(tmp_path)


def test_the_page_stands_alone(tmp_path):
    three_seeds(tmp_path)
    where = tmp_path / "runs" / "made_up/1/more" / "bench_seed0"
    made_up.write(tmp_path, "more", 0.31, run="made_up/1/more")
    where.mkdir(parents=True)
    rows = [{"step": step, "eval/AP": step / 100} for step in (5, 10)]
    (where / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    Image.fromarray(np.zeros((8, 2200, 3), np.uint8)).save(where / "detections.png")
    found, left_out = parts(tmp_path, expect=(("more", "base"),))
    text = html.page("Made up", found, left_out, runs=tmp_path / "runs")
    assert text == html.page("Made up", found, left_out, runs=tmp_path / "runs")  # same bytes
    assert text.count("data:image/svg+xml;base64,") == 2  # intervals, curves
    assert text.count("data:image/jpeg;base64,") == 1
    assert "<script" not in text
    assert 'src="http' not in text
    assert "More | or less" in text
    assert "&quot;not resolved&quot;" in text
    assert 'class="verdict' in text


def test_markdown_goes_between_the_marks(tmp_path):
    page = tmp_path / "README.md"
    markdown.insert(page, "first", title="Title")
    page.write_text("before\n" + page.read_text() + "after\n")
    markdown.insert(page, "second", title="Title")
    text = page.read_text()
    assert "first" not in text
    assert text.startswith("before\n# Title\n")
    assert text.endswith("after\n")
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"README\.md: needs the marks"):
        markdown.insert(page, "third", title="Title")
    assert "| More \\| or less |" in markdown.table(["a"], [["More | or less"]])


def test_a_folder_of_runs_makes_one_table(tmp_path):
    (tmp_path / "results").mkdir()
    cases = [("a", 0.5, 0), ("a", 0.6, 1), ("b", -1.0, 0)]
    for name, ap, seed in cases:
        path = tmp_path / "results" / f"{name}{seed}.json"
        path.write_text(json.dumps(made_up.result(name, ap, seed=seed)))
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "| a | bench | shapes 64 px, validation | 2 | 55.0 ± 63.5 |" in text  # 12.706 * 5
    assert "| b | bench | shapes 64 px, validation | 1 | - |" in text
    assert "| 10 | 1.5 | abc |" in text
    (tmp_path / "results" / "x.json").write_text(json.dumps({"config": "a"}))
    with pytest.raises(ValueError, match=r"x\.json: no key 'scale'"):
        folder.read(tmp_path)
    with pytest.raises(ValueError, match="no result files"):
        folder.read(tmp_path / "results")


def test_a_real_paper_is_reported_as_it_is(tmp_path):
    lines = report.of_paper("atss", runs=tmp_path, scales=("paper", "bench"), folder=tmp_path)
    assert all(line.startswith("atss, table ") for line in lines)
    text = (tmp_path / "README.md").read_text()
    assert "not run" in text
    assert "| 32.5 |" in text  # published, RetinaNet with one anchor
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["atts"], 2, "did you mean 'atss'"),
        (["atss", "--scale=bench"], 2, "did you mean '--scales'"),
        (["atss", "--scales=benhc"], 2, "did you mean 'bench'"),
        (["atss", "--config.data.root=x"], 2, "nothing can be set here"),
    ],
)
def test_mistakes_get_one_sentence(capsys, words, status, message):
    assert report.main(words) == status
    assert message in capsys.readouterr().err
    assert report.main([]) == 2
    assert report.main(["--help"]) == 0
