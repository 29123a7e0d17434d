"""Structure from motion on one or many ranks: bundle adjustment, and the global stages before it.

From photographs' matches to a model, in the order in which the files come:

    cameras             camera models and the intrinsics of all cameras
    reconstruction      cameras, images and their poses, points, observations
    rotations           quaternions, rotation vectors, matrices, many at a time
    projection          from points to pixels and back to rays, in plain NumPy; residuals
    checks              what must hold of a reconstruction
    distribute          whole reconstructions and arrays of users, scattered over ranks and gathered
    summary             how many of everything, and what hangs together
    formats             files: BAL, COLMAP, Bundler, libmv, PLY, VTKHDF
    losses              how much a large residual counts
    bundle              bundle adjustment: begin with `bundle/adjust.py`
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
