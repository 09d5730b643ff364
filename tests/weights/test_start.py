"""Training from a file of weights: refused without one where they are needed, frozen, resumed."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from command_line import command
from weights import pretrained, synthetic

from anchors_jax import commands, experiment, options
from anchors_jax.weights import reading, start
from configs import common, retinanet

CONFIG = f"--config={pathlib.Path(pretrained.__file__)}"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    safetensors.numpy.save_file(synthetic.resnet18(), path)
    return path


@pytest.fixture(scope="module")
def trained(backbone, tmp_path_factory):
    """A run of two steps from the backbone's file, which is then continued without the file."""
    workdir = tmp_path_factory.mktemp("run") / "pretrained"
    words = ("train", CONFIG, f"--workdir={workdir}", "--config.train.clip_norm=1.0")
    words = (*words, "--config.train.learning_rate=0.1")
    assert command(*words, f"--config.init_from={backbone}") == 0
    return workdir, words


def variables_of(workdir):
    run = experiment.load(options.parse([f"--config={workdir}/config.json"]).config)
    return commands.load_variables(run, workdir, "latest")[0]


def test_frozen_stages_keep_the_files_values_and_the_rest_learns(trained):
    workdir, _ = trained
    variables, state = variables_of(workdir), synthetic.resnet18()
    frozen = variables["frozen"]["backbone"]
    assert set(frozen) == {"conv1", "norm1", "layer1_0", "layer1_1"}
    # Bit for bit: no gradient, and no weight decay (0.05 at this scale).
    stem = state["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(frozen["conv1"]["kernel"], stem)
    np.testing.assert_array_equal(
        frozen["layer1_1"]["norm2"]["scale"], state["layer1.1.bn2.weight"]
    )
    constants = variables["constants"]["backbone"]
    for block in ("layer1_0", "layer4_1"):
        mean = state[f"{block.replace('_', '.')}.bn1.running_mean"]
        np.testing.assert_array_equal(constants[block]["norm1"]["mean"], mean)
    learned = variables["params"]["backbone"]["layer4_1"]["conv1"]["kernel"]
    given = state["layer4.1.conv1.weight"].transpose(2, 3, 1, 0)
    assert 0 < np.abs(learned - given).max() < 0.5 * np.abs(given).max()
    assert "frozen" not in variables["params"]


def test_the_log_says_where_the_weights_come_from(trained, backbone):
    workdir, _ = trained
    kept = json.loads((workdir / "config.json").read_text())["config"]
    assert kept["init_from"] == str(backbone)
    result = json.loads((workdir / "result.json").read_text())
    assert "resnet18.safetensors" in json.dumps(result)


def test_continues_where_the_file_is_gone(trained, capsys):
    workdir, words = trained
    gone = "--config.init_from=/gone/resnet18.safetensors"
    before = variables_of(workdir)
    assert command(*words, gone) == 0
    assert "continuing at step 2" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, variables_of(workdir), before)


def test_without_weights_it_is_refused_with_the_remedy(tmp_path, capsys):
    assert command("train", CONFIG, f"--workdir={tmp_path}/run") == 1
    said = capsys.readouterr().err
    assert "expects pretrained weights" in said
    assert "--config.init_from=FILE" in said
    assert "--config.init_from=random" in said
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_may_begin_with_random_numbers():
    free = {"params": {"backbone": {}}}
    bound = {**free, "constants": {"backbone": {"norm1": {"mean": np.zeros(2)}}}}
    begin = functools.partial(start.begin, network=("backbone", "neck", "head"))
    assert begin(free, init_from=None) == (free, "random start")
    assert begin(bound, init_from="random") == (bound, "random start")
    with pytest.raises(reading.WeightsError, match="never trained"):
        begin(bound, init_from=None)
    with pytest.raises(reading.WeightsError, match="published results start from ImageNet"):
        begin(free, init_from=None, published=True)
    with pytest.raises(reading.WeightsError, match="init_from_parts=backbone,nek: nek is none of"):
        begin(free, init_from="x.npz", init_from_parts="backbone,nek")


def test_only_paper_scale_claims_published_results():
    for scale in common.SCALES:
        run = experiment.load(retinanet.get_config(scale))
        if scale == "paper":
            with pytest.raises(reading.WeightsError, match="expects pretrained weights"):
                run.begin({"params": {}})
        else:
            assert run.begin({"params": {}}) == ({"params": {}}, "random start")
