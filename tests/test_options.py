"""Configs that were kept as JSON are read like those of a file."""

import json

import processes
import pytest

from anchors_jax import options, spec

CONFIG = processes.QUICKSTART


def kept(folder, content):
    path = folder / "best.json"
    path.write_text(json.dumps(content))
    return f"--config={path}"


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: {"file": "x.py", "config": c}])
def test_a_kept_config_is_the_config(tmp_path, wrap):
    want = spec.plain(options.parse([CONFIG]).config)
    words = [kept(tmp_path, wrap(want)), "--config.train.normaliser_group=2", "--workdir=w", "x"]
    read = options.parse(words)
    assert read.config_file == str(tmp_path / "best.json")
    assert (str(read.workdir), read.arguments) == ("w", ("x",))
    assert read.config.train.normaliser_group == 2
    want["train"]["normaliser_group"] = 2
    assert spec.plain(read.config) == want
    spec.build(read.config.detector)


def test_overrides_of_a_kept_config_are_checked(tmp_path):
    config = kept(tmp_path, spec.plain(options.parse([CONFIG]).config))
    with pytest.raises(options.UsageError, match="did you mean 'learning_rate'"):
        options.parse([config, "--config.train.learning_rat=1"])
    assert options.parse([config, "--config.data.train_transforms[1].p=0.25"]).config.data[
        "train_transforms"
    ][1].p == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("[]", "is no config"), ('{"train": {}}', "is no config")],
)
def test_a_file_that_is_no_config_is_named(tmp_path, content, message):
    path = tmp_path / "best.json"
    path.write_text(content)
    with pytest.raises(options.UsageError, match=rf"best\.json {message}"):
        options.parse([f"--config={path}"])
    with pytest.raises(options.UsageError, match=r"none\.json: No such file"):
        options.parse([f"--config={tmp_path}/none.json"])


def test_keys_that_a_kept_config_lacks_are_not_made_up(tmp_path):
    content = spec.plain(options.parse([CONFIG]).config)
    del content["init_from"], content["data"]["keep_empty"], content["data"]["min_side"]
    del content["evaluation"]["max_detections"], content["detector"]["detect"]["top_k"]
    assert spec.plain(options.parse([kept(tmp_path, content)]).config) == content
