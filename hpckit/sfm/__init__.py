"""Structure from motion on one or many ranks: bundle adjustment, and the global stages before it.

From the matches of photographs to a model, in the order in which data goes through the files:

    cameras             camera models, and the intrinsics of all cameras
    reconstruction      cameras, images and their poses, points, observations: what all files share
    rotations           quaternions, rotation vectors and matrices, many at a time
    projection          from points to pixels and back to rays, in plain NumPy
    formats             files: COLMAP, its database, BAL, Bundler, libmv, PLY, VTKHDF
    distribute          reconstructions and arrays of users, scattered over ranks and gathered
    checks, summary     what must hold of a reconstruction; how many of everything
    components          which images hang together
    synthetic           generated reconstructions whose truth is known (`worlds` is what is seen)

    viewgraph           pairs of images and their matches
    relative, two_view  poses of pairs, and focal lengths, from what a database says of pairs
    rotation_averaging  rotations of images from those of pairs (`spanning` is its start)
    tracks              keypoints that are one point
    positioning         centres of images, and points, from rays (`ray_solver` does it)
    triangulation       points from the images that see them
    filters             which observations and images are good enough
    similarity          the rotation, scale and shift between two sets of points
    bundle              bundle adjustment: everything at once, with losses, priors, covariance
    mapper, stages      all of it, from a database to models

`bundle/adjust.py` is the best file to begin with; the mathematics and its symbols are in
`bundle/system.py` and `kernels`.
"""

from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.bundle.covariance import Covariance, covariance
from hpckit.sfm.bundle.priors import PosePrior, PositionPrior
from hpckit.sfm.bundle.result import Iteration, Result
from hpckit.sfm.cameras import CameraModel, Cameras, camera_model
from hpckit.sfm.distribute import from_arrays, gather, scatter
from hpckit.sfm.filters import filter_points
from hpckit.sfm.formats import read, read_database, write
from hpckit.sfm.losses import Cauchy, Huber, Loss, SoftL1
from hpckit.sfm.mapper import global_mapper
from hpckit.sfm.positioning import position_globally
from hpckit.sfm.reconstruction import Images, Observations, Points, Reconstruction
from hpckit.sfm.rotation_averaging import average_rotations
from hpckit.sfm.stages import Stage
from hpckit.sfm.summary import summarise
from hpckit.sfm.tracks import build_tracks
from hpckit.sfm.triangulation import triangulate
from hpckit.sfm.viewgraph import ViewGraph

__all__ = [
    "CameraModel",
    "Cameras",
    "Cauchy",
    "Covariance",
    "Huber",
    "Images",
    "Iteration",
    "Loss",
    "Observations",
    "Points",
    "PosePrior",
    "PositionPrior",
    "Reconstruction",
    "Result",
    "SoftL1",
    "Stage",
    "ViewGraph",
    "average_rotations",
    "build_tracks",
    "bundle_adjust",
    "camera_model",
    "covariance",
    "filter_points",
    "from_arrays",
    "gather",
    "global_mapper",
    "position_globally",
    "read",
    "read_database",
    "scatter",
    "summarise",
    "triangulate",
    "write",
]
