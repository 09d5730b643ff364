"""Which checkpoints are kept and which one is the best."""

import numpy as np
import pytest

from anchors_jax.checkpoints import CheckpointError, Checkpoints

STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


def save(folder, scores):
    """One checkpoint per score (None: not evaluated), at steps 1, 2, ..."""
    stored = Checkpoints(folder)
    for step, score in enumerate(scores, start=1):
        stored.save(
            step,
            variables={"w": STATE["w"] * step},
            training={"m": STATE["w"]},
            loader={"step": step},
            metrics=None if score is None else {"AP": score},
        )
    stored.close()


def kept(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("scores", "best", "left"),
    [
        ([0.1, 0.5, 0.3, 0.4, 0.2], 2, [2, 4, 5]),
        ([0.1, 0.5, 0.5, 0.4, 0.2], 3, [3, 4, 5]),  # of equals the later one
        ([None, 0.0, None, None, None], 2, [2, 4, 5]),
        ([None, None, None, None], 4, [3, 4]),
        ([0.1, 0.2, 0.3], 3, [2, 3]),
        ([-1.0], 1, [1]),  # COCO's -1: no object to find
    ],
)
def test_the_latest_two_and_the_best_are_kept(tmp_path, scores, best, left):
    save(tmp_path, scores)
    assert kept(tmp_path) == left
    reader = Checkpoints(tmp_path, read_only=True)
    assert (reader.best(), reader.latest()) == (best, len(scores))
    restored = reader.restore_variables(best, variables=STATE)
    np.testing.assert_array_equal(restored["w"], STATE["w"] * best)
    assert type(restored["w"]) is np.ndarray
    reader.close()


def test_everything_comes_back(tmp_path):
    save(tmp_path, [None, 0.25])
    again = Checkpoints(tmp_path)
    variables, training, loader = again.restore(2, variables=STATE, training={"m": STATE["w"]})
    np.testing.assert_array_equal(variables["w"], STATE["w"] * 2)
    np.testing.assert_array_equal(training["m"], STATE["w"])
    assert loader == {"step": 2}
    again.close()


def test_a_step_that_exists_is_left_alone(tmp_path):
    save(tmp_path, [0.5])
    again = Checkpoints(tmp_path)
    again.save(1, variables=STATE, training={"m": STATE["w"]}, loader={"step": 99}, metrics=None)
    assert again.restore(1, variables=STATE, training={"m": STATE["w"]})[2] == {"step": 1}
    again.close()


def test_what_does_not_fit_is_named(tmp_path):
    save(tmp_path, [0.5])
    reader = Checkpoints(tmp_path, read_only=True)
    with pytest.raises(CheckpointError, match=r"w is \(2, 3\) there and \(2, 4\) here"):
        reader.restore_variables(1, variables={"w": np.zeros((2, 4), np.float32)})
    with pytest.raises(CheckpointError, match="does not fit this config's model"):
        reader.restore_variables(1, variables={"v": STATE["w"]})
    with pytest.raises(CheckpointError, match="7 does not exist; there is 1"):
        reader.restore_variables(7, variables=STATE)
    reader.close()
    with pytest.raises(CheckpointError, match="does not exist: train into this workdir first"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
