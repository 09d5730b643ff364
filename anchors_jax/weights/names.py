"""Names of released checkpoints beside ours: their module on the left, ours on the right.

{i} is a number that stays. What a module holds is translated alike everywhere: a convolution's
weight is our `kernel`; a norm's weight, running_mean and running_var are `scale`, `mean` and `var`.
"""

from collections.abc import Mapping

# torchvision, timm and MMDetection name a ResNet or ResNeXt alike.
RESNET = {
    "conv1": "conv1",
    "bn1": "norm1",
    "layer{s}.{b}.conv{i}": "layer{s}_{b}.conv{i}",
    "layer{s}.{b}.bn{i}": "layer{s}_{b}.norm{i}",
    "layer{s}.{b}.downsample.0": "layer{s}_{b}.downsample_conv",
    "layer{s}.{b}.downsample.1": "layer{s}_{b}.downsample_norm",
}
# Numbers count convolutions, ReLUs and poolings alike.
VGG16 = {
    "features.0": "conv1_1",
    "features.2": "conv1_2",
    "features.5": "conv2_1",
    "features.7": "conv2_2",
    "features.10": "conv3_1",
    "features.12": "conv3_2",
    "features.14": "conv3_3",
    "features.17": "conv4_1",
    "features.19": "conv4_2",
    "features.21": "conv4_3",
    "features.24": "conv5_1",
    "features.26": "conv5_2",
    "features.28": "conv5_3",
}
VGG16_CLASSIFIER = {
    "classifier.0": "fc6",  # torchvision
    "classifier.3": "fc7",
    "pre_logits.fc1": "fc6",  # timm
    "pre_logits.fc2": "fc7",
}


def under(theirs: str, ours: str, table: Mapping[str, str]) -> dict[str, str]:
    """A table of names inside a module, as names of the network that has it."""
    return {f"{theirs}.{left}": f"{ours}.{right}" for left, right in table.items()}


MMDET_FPN = {
    "neck.lateral_convs.{i}.conv": "neck.lateral{i}",
    "neck.fpn_convs.0.conv": "neck.output0",
    "neck.fpn_convs.1.conv": "neck.output1",
    "neck.fpn_convs.2.conv": "neck.output2",
    "neck.fpn_convs.3.conv": "neck.extra0",
    "neck.fpn_convs.4.conv": "neck.extra1",
}
MMDET_TOWERS = {
    "bbox_head.cls_convs.{i}.conv": "head.class_tower.conv{i}",
    "bbox_head.reg_convs.{i}.conv": "head.box_tower.conv{i}",
    "bbox_head.cls_convs.{i}.gn": "head.class_tower.norm{i}",
    "bbox_head.reg_convs.{i}.gn": "head.box_tower.norm{i}",
}
MMDET_RETINANET = {  # FreeAnchor, too
    **under("backbone", "backbone", RESNET),
    **MMDET_FPN,
    **MMDET_TOWERS,
    "bbox_head.retina_cls": "head.class_output",
    "bbox_head.retina_reg": "head.box_output",
}
MMDET_ATSS = {  # PAA, too: its IoU branch has ATSS's name
    **under("backbone", "backbone", RESNET),
    **MMDET_FPN,
    **MMDET_TOWERS,
    "bbox_head.atss_cls": "head.class_output",
    "bbox_head.atss_reg": "head.box_output",
    "bbox_head.atss_centerness": "head.quality_output",
}
MMDET_FCOS = {
    **under("backbone", "backbone", RESNET),
    **MMDET_FPN,
    **MMDET_TOWERS,
    "bbox_head.conv_cls": "head.class_output",
    "bbox_head.conv_reg": "head.box_output",
    "bbox_head.conv_centerness": "head.quality_output",
    "bbox_head.fcos_cls": "head.class_output",  # before 2.0
    "bbox_head.fcos_reg": "head.box_output",
    "bbox_head.fcos_centerness": "head.quality_output",
}
# Learned factors of the levels, five tensors there and one here.
MMDET_SCALES = {"bbox_head.scales.{i}.scale": "head.level_scale[{i}]"}
MMDET_GA_RETINANET = {
    **MMDET_RETINANET,
    "bbox_head.conv_loc": "head.location_output",
    "bbox_head.conv_shape": "head.shape_output",
    "bbox_head.feature_adaption_cls.conv_offset": "head.class_adaption.offset",
    "bbox_head.feature_adaption_reg.conv_offset": "head.box_adaption.offset",
    "bbox_head.feature_adaption_cls.conv_adaption": "head.class_adaption",
    "bbox_head.feature_adaption_reg.conv_adaption": "head.box_adaption",
}
MMDET_SSD = {
    **under("backbone", "backbone", VGG16),
    "backbone.features.31": "backbone.fc6",
    "backbone.features.33": "backbone.fc7",
    "neck.l2_norm": "neck.l2_norm",
    "neck.extra_layers.{i}.0.conv": "neck.extra{i}_1",
    "neck.extra_layers.{i}.1.conv": "neck.extra{i}_2",
    "bbox_head.cls_convs.{i}.0": "head.class{i}",
    "bbox_head.reg_convs.{i}.0": "head.box{i}",
}

TORCHVISION_FPN = {
    "backbone.fpn.inner_blocks.{i}.0": "neck.lateral{i}",
    "backbone.fpn.layer_blocks.{i}.0": "neck.output{i}",
    "backbone.fpn.inner_blocks.{i}": "neck.lateral{i}",  # before 0.14
    "backbone.fpn.layer_blocks.{i}": "neck.output{i}",
    "backbone.fpn.extra_blocks.p6": "neck.extra0",
    "backbone.fpn.extra_blocks.p7": "neck.extra1",
}
TORCHVISION_OUTPUTS = {
    "head.classification_head.cls_logits": "head.class_output",
    "head.regression_head.bbox_reg": "head.box_output",
}
TORCHVISION_RETINANET = {
    **under("backbone.body", "backbone", RESNET),
    **TORCHVISION_FPN,
    "head.classification_head.conv.{i}.0": "head.class_tower.conv{i}",
    "head.regression_head.conv.{i}.0": "head.box_tower.conv{i}",
    "head.classification_head.conv.{i}.1": "head.class_tower.norm{i}",  # version 2
    "head.regression_head.conv.{i}.1": "head.box_tower.norm{i}",
    **TORCHVISION_OUTPUTS,
}


def _sequence(head: str, tower: str, step: int) -> dict[str, str]:
    """Four convolutions (and norms, where layers repeat after 3) in one flat list of layers."""
    table = {f"head.{head}.conv.{step * i}": f"head.{tower}.conv{i}" for i in range(4)}
    if step == 3:
        table |= {f"head.{head}.conv.{step * i + 1}": f"head.{tower}.norm{i}" for i in range(4)}
    return table


TORCHVISION_RETINANET_OLD = {  # before 0.14: convolution, ReLU, convolution, ...
    **TORCHVISION_RETINANET,
    **_sequence("classification_head", "class_tower", 2),
    **_sequence("regression_head", "box_tower", 2),
}
TORCHVISION_FCOS = {  # convolution, norm, ReLU, convolution, ...
    **under("backbone.body", "backbone", RESNET),
    **TORCHVISION_FPN,
    **_sequence("classification_head", "class_tower", 3),
    **_sequence("regression_head", "box_tower", 3),
    **TORCHVISION_OUTPUTS,
    "head.regression_head.bbox_ctrness": "head.quality_output",
}
TORCHVISION_SSD = {
    **under("backbone", "backbone", VGG16),
    # The fifth block and the two layers after it are the first of the "extra" ones.
    "backbone.extra.0.1": "backbone.conv5_1",
    "backbone.extra.0.3": "backbone.conv5_2",
    "backbone.extra.0.5": "backbone.conv5_3",
    "backbone.extra.0.7.1": "backbone.fc6",
    "backbone.extra.0.7.3": "backbone.fc7",
    **{f"backbone.extra.{i + 1}.0": f"neck.extra{i}_1" for i in range(5)},
    **{f"backbone.extra.{i + 1}.2": f"neck.extra{i}_2" for i in range(5)},
    "head.classification_head.module_list.{i}": "head.class{i}",
    "head.regression_head.module_list.{i}": "head.box{i}",
}
TORCHVISION_SSD_SCALE = {"backbone.scale_weight": "neck.l2_norm.scale"}
