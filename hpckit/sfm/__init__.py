"""Structure from motion on one or many ranks: bundle adjustment, and the global stages before it.

From photographs' matches to a model, in the order in which the files come:

    cameras             camera models and the intrinsics of all cameras
    reconstruction      cameras, images and their poses, points, observations
    losses              how much a large residual counts
    bundle              bundle adjustment
"""
