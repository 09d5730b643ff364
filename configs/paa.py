"""PAA: a mixture of two normals over each object's losses says which anchors are positive.

Paper: K. Kim, H. S. Lee, "Probabilistic Anchor Assignment with IoU Prediction for Object
Detection", ECCV 2020, arXiv:2007.08103.
Read: assign/paa.py, mixture.py, likelihoods.py, quality.py (iou), nms.py (score_voting).
Against ATSS: assign/paa.py, which sees the predictions through likelihoods.class_box; the quality
branch learns the IoU of its own box instead of centerness; score voting after NMS.
Published: ResNet-50, 800 px on COCO val2017: AP 40.4 (90k steps); 41.1 (135k, the paper's ablation;
40.9 without voting): --config.train.steps=135000 keeps the places of the two decays.
Tables, under config.detector: objective.assign.separation (a-d, fixed_*), .topk; anchors.shapes;
voting by detect.voting. MMDetection's rules: see assign/paa.py.
Run: python -m anchors_jax train --config=configs/paa.py:paper --workdir=runs/paa
Variants: paper (default), bench, smoke.
"""

from ml_collections import ConfigDict

from anchors_jax import likelihoods, nms, quality
from anchors_jax.assign import paa
from anchors_jax.spec import bind
from configs import atss


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale."""
    config = atss.get_config(arg)
    config.name = "paa"
    objective = config.detector.objective
    losses = {"class_loss": objective.classify.loss, "box_loss": objective.regress.loss}
    likelihood = bind(likelihoods.class_box, **losses, lambda_s=1.0)
    objective.assign = bind(paa.assign, topk=9, likelihood=likelihood)
    objective.regress.weight = 1.3
    objective.quality.target = bind(quality.iou)
    objective.quality.weight = 0.5
    config.detector.detect.voting = bind(nms.score_voting)
    return config
