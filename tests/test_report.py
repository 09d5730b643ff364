import json

import pytest

from experiments import report


def result(config, ap, **changes):
    return {
        "config": config,
        "scale": "bench",
        "seed": 0,
        "commit": "abc",
        "device": "1 x cpu",
        "data": {"eval": {"make": "m:shapes", "image_size": 64, "split": "validation"}},
        "step": 10,
        "seconds": 90.0,
        "metrics": dict.fromkeys(report.COLUMNS, ap),
    } | changes


def test_seeds_are_averaged_and_undefined_numbers_left_out():
    text = report.table([result("a", 0.5), result("a", 0.6), result("b", -1.0)])
    assert "| a | bench | shapes 64 px, validation | 2 | 55.0 (50.0 to 60.0) |" in text
    assert "| b | bench | shapes 64 px, validation | 1 | - |" in text
    assert "| 10 | 1.5 | abc |" in text


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text(json.dumps({"config": "a"}))
    with pytest.raises(ValueError, match=r"x\.json: no key 'scale'"):
        report.read(tmp_path)
    with pytest.raises(ValueError, match="no result files"):
        report.read(tmp_path / "results")
