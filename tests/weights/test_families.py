"""Which file is of which family, and that every name of a released checkpoint has its place."""

import json

import golden_cases
import pytest

from anchors_jax.weights import families
from anchors_jax.weights.reading import WeightsError

RELEASED = {
    "torchvision_resnet50": "resnet",
    "torchvision_resnet101": "resnet",
    "torchvision_resnext50_32x4d": "resnet",
    "torchvision_resnext101_64x4d": "resnet",
    "torchvision_vgg16": "vgg16",
    "torchvision_retinanet": "torchvision_retinanet",
    "torchvision_fcos": "torchvision_fcos",
    "torchvision_ssd300": "torchvision_ssd",
    "mmdet_retinanet_r50": "mmdet_retinanet",
    "mmdet_freeanchor_r50": "mmdet_retinanet",
    "mmdet_freeanchor_x101": "mmdet_retinanet",
    "mmdet_atss_r50": "mmdet_atss",
    "mmdet_paa_r50": "mmdet_atss",
    "mmdet_fcos_r50": "mmdet_fcos",
    "mmdet_ga_retinanet_r50": "mmdet_ga_retinanet",
    "mmdet_ssd300_coco": "mmdet_ssd",
}
OTHERS = ("mmdet_faster_rcnn_r50", "torchvision_mask_rcnn")


def names_of(network):
    path = golden_cases.FOLDER / f"names_{network}.json"
    if not path.exists():
        pytest.skip(f"no {path.name} in {golden_cases.FOLDER}")
    return json.loads(path.read_text())


@pytest.mark.parametrize(("network", "family"), RELEASED.items())
def test_every_tensor_has_a_place_of_its_own(network, family):
    names = names_of(network)
    found = families.recognise(names)
    assert found.name == family
    assert families.named(family) is found
    if found.prepare:  # the classifier of VGG is thinned first
        names = [name for name in names if not name.startswith("classifier.")]
    placed = [found.place(name) for name in names if not found.drops(name)]
    assert None not in placed
    assert len(set(placed)) == len(placed)


@pytest.mark.parametrize("network", OTHERS)
def test_other_networks_are_not_mistaken(network):
    with pytest.raises(WeightsError, match="of no family of weights known here"):
        families.recognise(names_of(network))


@pytest.mark.parametrize(
    ("family", "name", "place"),
    [
        ("resnet", "layer3.22.bn3.running_var", "layer3_22.norm3.var"),
        ("resnet", "layer2.0.downsample.0.weight", "layer2_0.downsample_conv.kernel"),
        ("resnet", "layer2.0.downsample.1.weight", "layer2_0.downsample_norm.scale"),
        ("torchvision_retinanet", "backbone.fpn.inner_blocks.2.bias", "neck.lateral2.bias"),
        (
            "torchvision_retinanet",
            "head.regression_head.conv.1.1.weight",
            "head.box_tower.norm1.scale",
        ),
        (
            "torchvision_retinanet_old",
            "head.classification_head.conv.6.weight",
            "head.class_tower.conv3.kernel",
        ),
        (
            "torchvision_fcos",
            "head.classification_head.conv.10.weight",
            "head.class_tower.norm3.scale",
        ),
        ("mmdet_fcos", "bbox_head.fcos_reg.weight", "head.box_output.kernel"),
        ("mmdet_fcos", "bbox_head.cls_convs.3.gn.bias", "head.class_tower.norm3.bias"),
        (
            "mmdet_ga_retinanet",
            "bbox_head.feature_adaption_reg.conv_adaption.weight",
            "head.box_adaption.kernel",
        ),
        ("mmdet_ssd", "neck.extra_layers.3.1.conv.weight", "neck.extra3_2.kernel"),
        ("torchvision_ssd", "backbone.extra.4.2.bias", "neck.extra3_2.bias"),
        ("torchvision_ssd", "backbone.scale_weight", "neck.l2_norm.scale"),
        ("anchors_jax", "backbone.layer1_0.conv1.kernel", "backbone.layer1_0.conv1.kernel"),
    ],
)
def test_places(family, name, place):
    found = families.named(family).place(name)
    assert ".".join(found.path) == place
    assert found.element is None


def test_the_factors_of_the_levels_are_one_vector_here():
    found = families.named("mmdet_atss").place("bbox_head.scales.4.scale")
    assert found == families.Place(("head", "level_scale"), 4)


def test_unknown_names_have_no_place():
    resnet = families.named("resnet")
    assert resnet.place("conv1.0.weight") is None  # timm's deep stems
    assert resnet.place("layer1.0.se.fc1.weight") is None
    with pytest.raises(WeightsError, match=r"no family of weights 'resnt'; known: resnet, vgg16"):
        families.named("resnt")
