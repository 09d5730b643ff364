"""Tensors in their places: layouts, classes, parts, and all faults in one error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import synthetic

from anchors_jax.models import norms, resnet
from anchors_jax.weights import classes, export, families, fitting
from anchors_jax.weights.reading import WeightsError

RESNET = families.named("resnet")


def test_a_backbone_is_filled_and_its_classifier_dropped():
    state = synthetic.resnet18()
    found, dropped = fitting.fit(state, RESNET, synthetic.network())
    assert jax.tree.structure(found) == jax.tree.structure(synthetic.network())
    kernel = found["params"]["backbone"]["layer2_0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 2, 3, 4], state["layer2.0.conv1.weight"][4, 3, 1, 2])
    var = found["constants"]["backbone"]["layer4_1"]["norm2"]["var"]
    np.testing.assert_array_equal(var, state["layer4.1.bn2.running_var"])
    assert set(dropped) >= {"fc.weight", "fc.bias", "bn1.num_batches_tracked"}
    assert all(not np.shares_memory(kernel, value) for value in state.values())


def test_norms_that_are_frozen_as_a_whole_take_the_same_file():
    def frozen(**keywords):
        return norms.FrozenBatchNorm(trainable=False, **keywords)

    state = synthetic.resnet18()
    found, _ = fitting.fit(state, RESNET, synthetic.network(norm=frozen))
    scale = found["constants"]["backbone"]["norm1"]["scale"]
    np.testing.assert_array_equal(scale, state["bn1.weight"])


def test_all_faults_are_listed_at_once_with_their_counts():
    state = synthetic.resnet18()
    for layer in (1, 2):
        for block in (0, 1):
            del state[f"layer{layer}.{block}.conv1.weight"]
    state["layer9.0.conv1.weight"] = np.zeros((1, 1, 1, 1), np.float32)
    state["bn1.weight"] = np.zeros(3, np.float32)
    state["bn1.bias"] = np.full(8, np.nan, np.float32)
    with pytest.raises(WeightsError) as caught:
        fitting.fit(state, RESNET, synthetic.network())
    said = str(caught.value)
    assert "4 missing: backbone.layer1_0.conv1.kernel, backbone.layer1_1.conv1.kernel" in said
    assert "layer2_1" not in said  # only the first are named
    assert "1 left over: layer9.0.conv1.weight" in said
    assert "1 of another shape (as HWIO): bn1.weight (3,) instead of (8,)" in said
    assert "1 not finite: bn1.bias" in said


def test_another_network_is_named_by_its_tensors():
    with pytest.raises(
        WeightsError, match=r"conv1\.weight \(7, 7, 3, 8\) instead of \(7, 7, 3, 16\)"
    ):
        fitting.fit(synthetic.resnet18(), RESNET, wider())


def wider():
    model = resnet.ResNet(depth=18, width=16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return {kind: {"backbone": tree} for kind, tree in shapes.items()}


def head(**arrays):
    """Variables of a network that has nothing but these arrays, as {"head": ...} and so on."""
    tree = {}
    for path, shape in arrays.items():
        *folders, leaf = path.split("__")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = jax.ShapeDtypeStruct(shape, np.float32)
    return {"params": tree}


@pytest.mark.parametrize("count", [80, 90, 91])
def test_the_91_classes_become_cocos(count):
    """Two anchors; each bias says its anchor and its class number."""
    bias = np.concatenate([np.arange(91), 1000 + np.arange(91)]).astype(np.float32)
    state = {"head.classification_head.cls_logits.bias": bias}
    variables = head(head__class_output__bias=(2 * count,))
    found, _ = fitting.fit(state, families.named("torchvision_retinanet"), variables)
    want = {80: list(classes.COCO), 90: list(range(1, 91)), 91: list(range(91))}[count]
    values = found["params"]["head"]["class_output"]["bias"]
    np.testing.assert_array_equal(values, [*want, *(1000 + k for k in want)])


@pytest.mark.parametrize("count", [80, 90])
def test_the_background_of_a_softmax_moves_to_the_end(count):
    state = {"head.classification_head.module_list.3.bias": np.arange(91, dtype=np.float32)}
    variables = head(head__class3__bias=(count + 1,))
    found, _ = fitting.fit(state, families.named("torchvision_ssd"), variables)
    want = list(classes.COCO) if count == 80 else list(range(1, 91))
    np.testing.assert_array_equal(found["params"]["head"]["class3"]["bias"], [*want, 0])


def test_coco_has_80_categories_of_90_numbers():
    assert len(classes.COCO) == 80
    assert len(set(classes.COCO.values())) == 80
    assert set(range(1, 91)) - classes.COCO.keys() == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_other_numbers_of_classes_are_refused():
    state = {"head.classification_head.cls_logits.bias": np.zeros(182, np.float32)}
    variables = head(head__class_output__bias=(2 * 20,))
    with pytest.raises(WeightsError, match="can become 80, 90 or 91, not 20"):
        fitting.fit(state, families.named("torchvision_retinanet"), variables)


def test_factors_of_levels_are_gathered():
    state = {f"bbox_head.scales.{i}.scale": np.asarray(10 + i, np.float32) for i in range(3)}
    variables = head(head__level_scale=(3,))
    found, _ = fitting.fit(state, families.named("mmdet_atss"), variables)
    np.testing.assert_array_equal(found["params"]["head"]["level_scale"], [10, 11, 12])
    del state["bbox_head.scales.1.scale"]
    with pytest.raises(WeightsError, match=r"1 missing: head\.level_scale"):
        fitting.fit(state, families.named("mmdet_atss"), variables)


def test_parts_of_a_detector_for_other_classes():
    start = {"params": {"head": {"class_output": {"bias": np.ones(7, np.float32)}}}}
    start["params"]["neck"] = {"output0": {"bias": np.zeros(2, np.float32)}}
    state = {
        "neck.fpn_convs.0.conv.bias": np.float32([4, 5]),
        "bbox_head.retina_cls.bias": np.zeros(720, np.float32),
    }
    family = families.named("mmdet_retinanet")
    found, dropped = fitting.fit(state, family, start, parts=("backbone", "neck"))
    np.testing.assert_array_equal(found["params"]["neck"]["output0"]["bias"], [4, 5])
    np.testing.assert_array_equal(found["params"]["head"]["class_output"]["bias"], np.ones(7))
    assert dropped == ("bbox_head.retina_cls.bias",)
    with pytest.raises(WeightsError, match="of another shape"):
        fitting.fit(state, family, start)


def test_what_is_exported_fits_again():
    found, _ = fitting.fit(synthetic.resnet18(), RESNET, synthetic.network())
    tensors = export.tensors(found)
    assert "backbone.conv1.kernel" in tensors
    family = families.recognise(tensors)
    assert family.ours
    again, _ = fitting.fit(tensors, family, synthetic.network())
    jax.tree.map(np.testing.assert_array_equal, again, found)


def test_vgg_without_its_classifier_keeps_the_start_of_fc6_and_fc7():
    family = families.named("vgg16")
    state = {f"features.{k}.bias": np.full(2, k, np.float32) for k in (0, 2)}
    shapes = {"conv1_1": 2, "conv1_2": 2, "fc6": 3, "fc7": 3}
    start = {name: {"bias": np.ones(n, np.float32)} for name, n in shapes.items()}
    found, _ = fitting.fit(state, family, {"params": {"backbone": start}})
    np.testing.assert_array_equal(found["params"]["backbone"]["conv1_2"]["bias"], [2, 2])
    np.testing.assert_array_equal(found["params"]["backbone"]["fc6"]["bias"], np.ones(3))
