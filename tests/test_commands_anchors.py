"""The commands coverage and cluster as a user meets them; shapes that train takes as they are."""

import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import command, config, one_sentence, refused

from anchors_jax import experiment, options, spec

CONFIG = config("quickstart")


def coco_file(path, sized=True, count=8):
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 48, "width": 64} for i in (1, 2)]
    if not sized:
        del images[1]["height"]
    annotations = [
        {
            "id": n + 1,
            "image_id": 1 + n % 2,
            "category_id": 1,
            "bbox": rng.uniform(8, 20, 4).tolist(),
            "iscrowd": int(n == 0),
        }
        for n in range(count)
    ]
    categories = [{"id": 1, "name": "thing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("coverage")


def test_coverage_prints_and_writes(workdir, capsys):
    assert command("coverage", CONFIG, f"--workdir={workdir}", "--assign-images=2") == 0
    said = capsys.readouterr().out
    for word in ("objects in 8 images", "max_iou (this config)", "atss", "fcos", "coverage.png"):
        assert word in said
    content = json.loads((workdir / "coverage.json").read_text())
    assert content["positives"]["images"] == 2
    assert len(content["anchors"]) == 5
    assert len(content["all"]["recall"]) == len(content["iou"]) == 14
    assert (np.diff(content["all"]["recall"]) <= 0).all()
    for kind in ("size", "aspect", "level", "class"):
        rows = content[f"by_{kind}"].values()
        assert sum(row["objects"] for row in rows) == content["objects"]
    assert (workdir / "coverage.png").stat().st_size > 10_000


def test_coverage_fails_a_check_of_the_recall(tmp_path, capsys):
    file = coco_file(tmp_path / "a.json")
    words = ("coverage", CONFIG, f"--annotations={file}", "--assign-images=0")
    assert command(*words, "--min-recall=0") == 0
    said = capsys.readouterr().out
    assert "7 objects in 2 images" in said  # without the crowd region
    assert command(*words, "--min-recall=1", "--config.detector.anchors.offset=4.0") == 1
    error = capsys.readouterr().err
    assert "recall at IoU 0.5 is" in error
    assert "below --min-recall=1" in error
    one_sentence(error)


@pytest.fixture(scope="module")
def clustered(workdir):
    assert command("cluster", CONFIG, f"--workdir={workdir}", "-k", 2, "--restarts=2") == 0
    return json.loads((workdir / "cluster.json").read_text())


def test_cluster_compares_and_writes(workdir, clustered):
    assert clustered["levels"] == "folded"
    assert clustered["clustered"]["shapes"] == 10
    assert clustered["clustered"]["anchors"] * 9 == clustered["present"]["anchors"] * 2
    macs = [clustered[name]["head_multiply_adds"] for name in ("clustered", "present")]
    assert 0 < macs[0] < macs[1]
    assert (workdir / "cluster.png").stat().st_size > 10_000
    # Seen as the config's own shapes they cover what the report says.
    words = [CONFIG, *clustered["overrides"], f"--workdir={workdir}/again", "--assign-images=0"]
    assert command("coverage", *words) == 0
    content = json.loads((workdir / "again" / "coverage.json").read_text())
    assert content["all"] == clustered["clustered"]["grid"]
    assert [level["shapes"] for level in content["anchors"]] == clustered["shapes"]


def test_clustered_shapes_fit_the_network(clustered):
    run = experiment.load(options.parse([CONFIG, *clustered["overrides"]]).config)
    assert spec.plain(run.config)["detector"]["anchors"]["shapes"]["sizes"] == clustered["shapes"]
    batch = jax.tree.map(jnp.asarray, next(run.train_batches(run.source("train"))))
    variables = run.variable_shapes()
    terms, _, _ = jax.eval_shape(run.detector.loss, variables, batch, jax.random.key(0))
    assert terms["class"].total.shape == (run.config.data.batch_size,)
    boxes = jax.eval_shape(run.detector.score, variables, batch).boxes
    assert boxes.shape[1] == clustered["clustered"]["anchors"]


@pytest.mark.slow
def test_clustered_shapes_are_trained_with(workdir, capsys):
    assert command("cluster", CONFIG, f"--workdir={workdir}", "-k", 2, "--restarts=2") == 0
    said = capsys.readouterr().out
    train = shlex.split(next(line for line in said.splitlines() if line.startswith("  python")))[3:]
    train[-1] = f"--workdir={workdir}/run"
    assert command(*train) == 0
    kept = json.loads((workdir / "run" / "config.json").read_text())["config"]["detector"]
    report = json.loads((workdir / "cluster.json").read_text())
    assert kept["anchors"]["shapes"]["make"] == "anchors_jax.anchors:explicit"
    assert kept["anchors"]["shapes"]["sizes"] == report["shapes"]
    assert kept["model"]["head"]["shapes_per_cell"] == 2
    assert (workdir / "run" / "eval.json").exists()


def test_each_level_of_ssd_has_its_own_number(tmp_path, capsys):
    ssd = config("ssd")
    assert command("cluster", ssd, f"--workdir={tmp_path}", "-k", 4, "--restarts=2") == 0
    capsys.readouterr()
    report = json.loads((tmp_path / "cluster.json").read_text())
    assert report["levels"] == "nearest"
    assert sum(len(level) for level in report["shapes"]) == 4
    parsed = options.parse([ssd, *report["overrides"]])
    counts = tuple(len(level) for level in report["shapes"])
    assert tuple(parsed.config.detector.model.head.shapes_per_cell) == counts
    assert command("coverage", ssd, *report["overrides"], "--assign-images=1") == 0
    assert "none" in capsys.readouterr().out  # a level without shapes


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["coverage"], 2, "--config=FILE.py is missing"),
        (["coverage", CONFIG, "--min-recall=2"], 2, "'2' is not a number between 0 and 1"),
        (["coverage", CONFIG, "--split=val"], 2, "invalid choice: 'val'"),
        (["coverage", CONFIG, "--min-recal=1"], 2, "min-recal"),
        (["coverage", CONFIG, "more"], 2, "'more' is not a flag"),
        (["coverage", CONFIG, "--annotations=/no/such.json"], 1, "/no/such.json: cannot be read"),
        (["cluster", CONFIG, "-k", "0"], 2, "'0' is not a positive number"),
        (["cluster", CONFIG, "-k", "9999"], 1, "k = 9999 clusters of"),
        (["cluster", CONFIG, "--method=kmean"], 2, "invalid choice: 'kmean'"),
        (["cluster", CONFIG, "-k", "4", "--levels=chunks"], 1, "one head for all 5 levels"),
        (["cluster", config("fcos")], 1, "locations instead of anchors"),
        (["describe", CONFIG, "--config.train.epochs=@x.json"], 2, "is 5.0, not a record"),
        (["describe", CONFIG, "--config.train.epoch=@x.json"], 2, "did you mean 'epochs'?"),
        (["describe", CONFIG, "--config.detector.anchors.shapes=@x.json"], 2, "x.json cannot be"),
    ],
)
def test_mistakes_get_one_sentence(words, status, message, capsys):
    refused(capsys, *words, status=status, message=message)


def test_annotations_must_say_how_large_images_are(tmp_path, capsys):
    file = coco_file(tmp_path / "a.json", sized=False)
    assert command("coverage", CONFIG, f"--annotations={file}") == 1
    error = capsys.readouterr().err
    assert "an image without width and height (2.jpg)" in error
    assert command("coverage", CONFIG, f"--annotations={coco_file(file, count=1)}") == 1
    assert "no objects, so there is nothing to cover" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds no record"),
        ('{"make": "anchors_jax.anchors:explicit", "size": []}', "has no keyword 'size'"),
        ('{"make": "anchors_jax.anchors:implicit"}', "cannot be imported"),
    ],
)
def test_a_file_that_is_no_record_is_said(text, message, tmp_path):
    file = tmp_path / "shapes.json"
    file.write_text(text)
    with pytest.raises(options.UsageError, match=message):
        options.parse([CONFIG, f"--config.detector.anchors.shapes=@{file}"])


@pytest.mark.parametrize("name", ["coverage", "cluster"])
def test_help_explains(name, capsys):
    assert command(name, "--help") == 0
    said = capsys.readouterr().out
    assert f"anchors_jax {name} --config=" in said
    assert "Reads annotations only" in said
    assert ("--min-recall" if name == "coverage" else "--method") in said


def test_bccd_is_covered(bccd, capsys):
    words = ("coverage", config("bccd", "bench"), f"--config.data.root={bccd}", "--assign-images=0")
    assert command(*words, "--min-recall=0.99") == 0
    assert "3,941 objects in 292 images" in capsys.readouterr().out
