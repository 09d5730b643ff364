import json

import pytest
from ml_collections import ConfigDict

from anchors_jax import losses, spec
from anchors_jax.spec import bind, build, make


def scaled(x, *, factor=2.0, offset=0, sizes=(1, 2)):
    return x * factor + offset + sum(sizes)


def pair(*, first, second=3):
    return (first, second)


def test_bind_waits_for_arrays_and_records_defaults():
    record = bind(scaled, factor=3.0)
    assert record.to_dict() == {
        "bind": f"{__name__}:scaled", "factor": 3.0, "offset": 0, "sizes": (1, 2),
    }  # fmt: skip
    assert build(record)(2) == 2 * 3.0 + 3


def test_make_builds_nested_records_to_values():
    config = make(pair, first=make(pair, first=1), second=bind(scaled, offset=10))
    first, second = build(config)
    assert first == (1, 3)
    assert second(1) == 2 + 10 + 3


def test_records_survive_json():
    config = ConfigDict({"a": make(pair, first=bind(scaled, sizes=(5,))), "b": [1, 2]})
    again = json.loads(json.dumps(spec.plain(config)))
    assert build(again)["a"][0](0) == 5
    assert build(again)["b"] == (1, 2)


def test_one_source_per_fact():
    config = ConfigDict({"classes": 5})
    config.head = make(pair, first=config.get_ref("classes"))
    config.classes = 7
    assert build(config.head) == (7, 3)
    assert spec.plain(config)["head"]["first"] == 7


def test_a_node_is_replaced_whole():
    config = ConfigDict({"assign": bind(scaled, factor=9.0)})
    config.assign = make(pair, first=1)
    assert "factor" not in config.assign


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bind(scaled, factr=1), "no keyword 'factr'; did you mean 'factor'?"),
        (lambda: bind(lambda x: x), "only importable names"),
        (lambda: build(make(pair)), "missing a required argument: 'first'"),
        (lambda: build({"bind": "no.such:thing"}), "'no.such:thing', which cannot be imported"),
        (lambda: build({"bind": f"{__name__}:nothing"}), "cannot be imported"),
        (lambda: build({"make": f"{__name__}:pair", "frist": 1}), "did you mean 'first'?"),
    ],
)
def test_mistakes_are_named_when_the_config_is_read(call, message):
    with pytest.raises(spec.SpecError, match=message.replace("?", r"\?")):
        call()


def test_a_record_is_what_it_says_whatever_the_code_has_learned_since():
    record = spec.plain(spec.bind(losses.focal, gamma=1.5))
    earlier = {key: record[key] for key in record if key != "alpha"}
    assert build(earlier).keywords == {"gamma": 1.5}
    assert build(record).keywords.keys() == {"gamma", "alpha"}


def test_every_record_of_a_config_is_found():
    config = ConfigDict({"a": make(pair, first=bind(scaled, factor=5.0)), "b": [bind(scaled)]})
    found = {where: (function, keywords) for where, function, keywords in spec.records(config)}
    assert found.keys() == {"a", "a.first", "b[0]"}
    assert [found[where][0] for where in ("a", "a.first")] == [pair, scaled]
    assert found["a.first"][1] == {"factor": 5.0, "offset": 0, "sizes": (1, 2)}
    with pytest.raises(spec.SpecError, match="cannot be imported"):
        list(spec.records({"a": {"bind": f"{__name__}:nothing"}}))
