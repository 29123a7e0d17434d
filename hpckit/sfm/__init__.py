"""Structure from motion on one or many ranks: bundle adjustment, and the global stages before it.

From photographs' matches to a model, in the order in which the files come:

    cameras             camera models and the intrinsics of all cameras
    reconstruction      cameras, images and their poses, points, observations
    rotations           quaternions, rotation vectors, matrices, many at a time
    projection          from points to pixels and back to rays, in plain NumPy; residuals
    checks              what must hold of a reconstruction
    distribute          whole reconstructions and arrays of users, scattered over ranks and gathered
    summary             how many of everything, and what hangs together
    formats             files: BAL, COLMAP, Bundler, libmv, PLY, VTKHDF; COLMAP's database
    viewgraph           images, keypoints, and pairs of images with their matches, over ranks
    tracks              which keypoints are one point, by a union-find over ranks
    triangulation       points from tracks and poses
    filters             which observations, points and images stay
    stages              what the mapper's stages tell of themselves
    mapper              `global_mapper`: from a database to models, by all stages
"""

from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.bundle.priors import PosePrior, PositionPrior
from hpckit.sfm.bundle.result import Iteration, Result
from hpckit.sfm.filters import filter_points
from hpckit.sfm.formats.database import read_database
from hpckit.sfm.losses import Cauchy, Huber, Loss, SoftL1
from hpckit.sfm.mapper import global_mapper
from hpckit.sfm.stages import Stage
from hpckit.sfm.tracks import build_tracks
from hpckit.sfm.triangulation import triangulate
from hpckit.sfm.viewgraph import ViewGraph

__all__ = [
    "Cauchy",
    "Huber",
    "Iteration",
    "Loss",
    "PosePrior",
    "PositionPrior",
    "Result",
    "SoftL1",
    "Stage",
    "ViewGraph",
    "build_tracks",
    "bundle_adjust",
    "filter_points",
    "global_mapper",
    "read_database",
    "triangulate",
]
