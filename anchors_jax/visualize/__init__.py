"""Pictures, drawn off screen: boxes, detections beside the truth, curves. No jax."""

from anchors_jax.visualize.assignment import Panel, assignments
from anchors_jax.visualize.boxes import class_colour, draw_boxes
from anchors_jax.visualize.curves import precision_recall_plot, training_curve
from anchors_jax.visualize.grid import Boxes, detections_beside_truth
from anchors_jax.visualize.predicted import AnchorPanel, best_anchors
from anchors_jax.visualize.pruning import cover_plot, pareto_plot

__all__ = [
    "AnchorPanel",
    "Boxes",
    "Panel",
    "assignments",
    "best_anchors",
    "class_colour",
    "cover_plot",
    "detections_beside_truth",
    "draw_boxes",
    "pareto_plot",
    "precision_recall_plot",
    "training_curve",
]
