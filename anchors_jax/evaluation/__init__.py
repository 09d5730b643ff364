"""Detections in original pixels -> COCO and VOC metrics. numpy only."""

from anchors_jax.evaluation.coco import coco_metrics
from anchors_jax.evaluation.detections import (
    DetectionTable,
    coco_results,
    concatenate,
    empty_table,
    from_batch,
    from_coco_results,
    read_coco_results,
    to_original,
    write_coco_results,
)
from anchors_jax.evaluation.ground_truth import truth_as_detections
from anchors_jax.evaluation.report import format_table
from anchors_jax.evaluation.voc import RULES as VOC_RULES
from anchors_jax.evaluation.voc import voc_metrics

__all__ = [
    "VOC_RULES",
    "DetectionTable",
    "coco_metrics",
    "coco_results",
    "concatenate",
    "empty_table",
    "format_table",
    "from_batch",
    "from_coco_results",
    "read_coco_results",
    "to_original",
    "truth_as_detections",
    "voc_metrics",
    "write_coco_results",
]
