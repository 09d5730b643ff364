"""Ranges of a sweep: what is read, what is refused, and the points of a grid."""

import json

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.sweeping import space

WORDS = "a.b=log:1e-4:1e-2,c=float:0.5:3:0.5,d=int:1:9:3,e=choice:(1, 2)|x=y,f=float:0:1"


def test_inline_and_file_are_the_same(tmp_path):
    path = tmp_path / "space.json"
    pairs = {
        "a.b": "log:1e-4:1e-2",
        "c": "float:0.5:3:0.5",
        "d": "int:1:9:3",
        "e": "choice:(1, 2)|x=y",
        "f": "float:0:1",
    }
    path.write_text(json.dumps(pairs))
    assert space.parse(WORDS) == space.parse(str(path))
    assert space.parse(WORDS) == {
        "a.b": FloatDistribution(1e-4, 1e-2, log=True),
        "c": FloatDistribution(0.5, 3.0, step=0.5),
        "d": IntDistribution(1, 7, step=3),  # 9 is no multiple
        "e": CategoricalDistribution(["(1, 2)", "x=y"]),
        "f": FloatDistribution(0.0, 1.0),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "is empty"),
        ("a=lgo:1:2", "no kind 'lgo'; did you mean 'log'"),
        ("a", "no kind ''"),
        ("a=float:2:1", "want float:LOW:HIGH with LOW < HIGH"),
        ("a=log:0:1", "needs LOW > 0"),
        ("a=log:1:2:1", "want log:LOW:HIGH"),
        ("a=int:0.5:2", "invalid literal"),
        ("a=float:0:1:2", "the step does not fit"),
        ("a=choice:x|x", "choices must differ"),
        ("a=float:0:1,a=float:0:2", "'a' stands twice"),
        ("/no/such.json", "No such file"),
    ],
)
def test_what_is_not_understood_is_named(words, message):
    with pytest.raises(space.SpaceError) as caught:
        space.parse(words)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_file_that_is_no_space_is_named(tmp_path, content):
    path = tmp_path / "space.json"
    path.write_text(content)
    with pytest.raises(space.SpaceError, match=r"space\.json"):
        space.parse(str(path))


def test_the_points_of_a_grid():
    ranges = space.parse(WORDS)
    axes = space.grid(ranges, points=3)
    assert axes["a.b"] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert axes["c"] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert axes["d"] == [1, 4, 7]
    assert axes["e"] == ["(1, 2)", "x=y"]
    assert axes["f"] == [0.0, 0.5, 1.0]
    assert len(space.product(axes)) == 3 * 6 * 3 * 2 * 3
    assert space.size(ranges) is None
    assert space.size(space.parse("c=float:0.5:3:0.5,d=int:1:9:3,e=choice:x|y")) == 6 * 3 * 2


def test_corners_hold_every_end_and_choice():
    corners = space.corners(space.parse("a=float:0:1,e=choice:x|y|z"))
    assert corners == [{"a": 0.0, "e": "x"}, {"a": 1.0, "e": "y"}, {"a": 1.0, "e": "z"}]
    assert space.overrides(corners[1]) == ["--config.a=1.0", "--config.e=y"]
