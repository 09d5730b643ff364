"""Evaluations on disk survive a kill, and belong to one subject."""

import json
import pathlib
import time

import processes
import pytest
import toy_searches
from toy_searches import search

from anchors_jax.search.store import Store, StoreError

CHILD = pathlib.Path(toy_searches.__file__)


def test_what_is_known_is_not_computed_again(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    found, computed = search(Store(path, {"run": 1}))
    again, recomputed = search(Store(path, {"run": 1}))
    assert found == again
    assert computed
    assert not recomputed
    assert len(Store(path, {"run": 1})) == len(computed)


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    found, computed = search(Store(path, {}))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    store = Store(path, {})
    assert len(store) == len(computed) - 1
    again, recomputed = search(store)
    assert again == found
    assert len(recomputed) == 1
    assert path.read_bytes() == whole


def test_other_subjects_and_damage_are_named(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    search(Store(path, {"step": 1}))
    with pytest.raises(StoreError, match="another run or setting"):
        Store(path, {"step": 2})
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    with pytest.raises(StoreError, match="line 2 is not JSON"):
        Store(path, {"step": 1})
    path.write_text("\n".join([lines[0], "{}"]) + "\n")
    with pytest.raises(StoreError, match="line 2 is not an evaluation"):
        Store(path, {"step": 1})


def test_killed_and_started_again_the_search_ends_alike(tmp_path):
    path, whole = tmp_path / "evaluations.jsonl", Store(None, {})
    expected, computed = search(whole)
    with processes.started(CHILD, path, env=processes.environment()) as child:
        deadline = time.monotonic() + 60
        while not path.exists() or len(path.read_bytes().splitlines()) < 5:
            assert child.process.poll() is None, child.output()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.process.kill()  # kill -9
        child.process.wait()
    store = Store(path, {})
    known = len(store)
    assert 3 <= known < len(computed)
    found, rest = search(store)
    assert found == expected
    assert len(rest) == len(computed) - known
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert {tuple(row["removed"]) for row in rows} == {tuple(sorted(key)) for key in computed}
