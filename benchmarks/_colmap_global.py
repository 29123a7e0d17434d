"""COLMAP's global stages, run by an interpreter that has pycolmap: `_colmap_global.py IN OUT`.

IN is a .npz of a case of `benchmarks/sfm_global.py`. OUT becomes one of `cpu`, seconds of process
time of the stage alone, and `result`.
"""

import sys
import time

import numpy as np
import pycolmap


def reconstruction(rotations, focal=1.0, centres=None, keypoints=None):
    """A model of one pinhole camera for all, one trivial frame per image."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(
        camera_id=1, model="SIMPLE_PINHOLE", width=2, height=2, params=[focal, 0.0, 0.0]
    )
    camera.has_prior_focal_length = True
    model.add_camera_with_trivial_rig(camera)
    for i, q in enumerate(rotations):
        image = pycolmap.Image(image_id=i + 1, camera_id=1, name=f"{i}")
        if keypoints is not None:
            image.points2D = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in keypoints[i]])
        turn = pycolmap.Rotation3d(np.array([q[1], q[2], q[3], q[0]]))
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(turn, np.zeros(3)))
    return model


def rotation_averaging(given, seed):
    model = reconstruction(np.tile([1.0, 0.0, 0.0, 0.0], (int(given["n"]), 1)))
    graph = pycolmap.PoseGraph()
    for (i, j), q in zip(given["edges"], given["relative"], strict=True):
        turn = pycolmap.Rotation3d(np.array([q[1], q[2], q[3], q[0]]))
        edge = pycolmap.PoseGraphEdge(pycolmap.Rigid3d(turn, np.zeros(3)))
        edge.num_matches = 100
        graph.add_edge(int(i) + 1, int(j) + 1, edge)
    options = pycolmap.RotationEstimatorOptions(random_seed=seed)
    begin = time.process_time()
    assert pycolmap.run_rotation_averaging(options, graph, model, [])
    cpu = time.process_time() - begin
    turned = np.tile([0.0, 0.0, 0.0, 1.0], (int(given["n"]), 1))  # what it leaves out stays so
    for i, image in model.images.items():
        if image.has_pose:
            turned[i - 1] = image.cam_from_world().rotation.quat
    return cpu, turned[:, [3, 0, 1, 2]]


def global_positioning(given, seed):
    image, start, ray = given["image"], given["start"], given["ray"]
    keypoints = [[] for _ in given["rotations"]]
    tracks = []
    for p in range(len(start) - 1):
        track = pycolmap.Track()
        for k in range(start[p], start[p + 1]):
            track.add_element(int(image[k]) + 1, len(keypoints[image[k]]))
            keypoints[image[k]].append(ray[k, :2] / ray[k, 2])
        tracks.append(track)
    model = reconstruction(given["rotations"], keypoints=keypoints)
    for track in tracks:
        model.add_point3D(np.zeros(3), track)
    options = pycolmap.GlobalPositionerOptions(random_seed=seed, use_gpu=False)
    begin = time.process_time()
    assert pycolmap.run_global_positioning(options, pycolmap.PoseGraph(), model)
    cpu = time.process_time() - begin
    n = len(given["rotations"])
    return cpu, np.array([model.images[i + 1].projection_center() for i in range(n)])


if __name__ == "__main__":
    given = dict(np.load(sys.argv[1]))
    pycolmap.logging.minloglevel = 2
    stage = rotation_averaging if given["stage"] == "rotations" else global_positioning
    cpu, result = stage(given, int(given["seed"]))
    np.savez(sys.argv[2], cpu=cpu, result=result)
