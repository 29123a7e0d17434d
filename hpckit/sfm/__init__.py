"""Structure from motion on one or many ranks: bundle adjustment, and the global stages before it.

From photographs' matches to a model, in the order in which the files come:

    cameras             camera models and the intrinsics of all cameras
    reconstruction      cameras, images and their poses, points, observations
    losses              how much a large residual counts
    bundle              bundle adjustment
"""

from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.bundle.priors import PosePrior, PositionPrior
from hpckit.sfm.bundle.result import Iteration, Result
from hpckit.sfm.losses import Cauchy, Huber, Loss, SoftL1

__all__ = [
    "Cauchy",
    "Huber",
    "Iteration",
    "Loss",
    "PosePrior",
    "PositionPrior",
    "Result",
    "SoftL1",
    "bundle_adjust",
]
