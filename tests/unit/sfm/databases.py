"""Databases of COLMAP that tests make: a scene whose answer is known, and its matches."""

import itertools
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpckit.sfm.cameras import Cameras
from hpckit.sfm.projection import project

TABLES = {
    "cameras": "camera_id integer primary key, model integer, width integer, height integer, "
    "params blob, prior_focal_length integer",
    "images": "image_id integer primary key, name text unique, camera_id integer",
    "keypoints": "image_id integer primary key, rows integer, cols integer, data blob",
    "matches": "pair_id integer primary key, rows integer, cols integer, data blob",
}
GEOMETRIES = (
    "pair_id integer primary key, rows integer, cols integer, data blob, config integer, "
    "F blob, E blob, H blob"
)
RIGS = {
    "rigs": "rig_id integer primary key, ref_sensor_id integer, ref_sensor_type integer",
    "rig_sensors": "rig_id integer, sensor_id integer, sensor_type integer, sensor_from_rig blob",
    "frames": "frame_id integer primary key, rig_id integer",
}


@dataclass
class Scene:
    """Images around a cloud of points, all of which all images see."""

    cameras: Cameras
    camera: np.ndarray  # of each image
    R: np.ndarray
    centres: np.ndarray
    xyz: np.ndarray
    xy: np.ndarray  # (images, points, 2) pixels
    order: list[np.ndarray] = field(
        default_factory=list
    )  # keypoint k of an image is point order[k]

    def look(self) -> "Scene":
        """The same after a change of points or poses: what the images see then."""
        x = np.einsum("irc,ipc->ipr", self.R, self.xyz[None] - self.centres[:, None])
        camera = np.repeat(self.camera, len(self.xyz))
        self.xy = project(self.cameras, camera, x.reshape(-1, 3)).reshape(*x.shape[:2], 2)
        return self

    def pose(self, i, j):
        """R and t of x_j = R x_i + t."""
        R = self.R[j] @ self.R[i].T
        return R, self.R[j] @ (self.centres[i] - self.centres[j])


def scene(images=6, points=60, seed=0, noise=0.0, cameras=None) -> Scene:
    rng = np.random.default_rng(seed)
    cameras = cameras or Cameras.of(("SIMPLE_RADIAL", 1000, 800, [900.0, 500.0, 400.0, 0.02]))
    camera = np.arange(images) % len(cameras)
    angle = np.linspace(0.0, 1.6, images)
    height = 0.3 * rng.normal(size=images)
    centres = np.stack([6 * np.sin(angle), height, -6 * np.cos(angle)], 1)
    forward = -centres / np.linalg.norm(centres, axis=1)[:, None]
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right, axis=1)[:, None]
    R = np.stack([right, np.cross(forward, right), forward], 1)
    xyz = rng.uniform(-1.5, 1.5, (points, 3))
    order = [rng.permutation(points) for _ in range(images)]
    made = Scene(cameras, camera, R, centres, xyz, np.empty(0), order).look()
    made.xy += noise * rng.normal(size=made.xy.shape)
    return made


def fundamental(scene: Scene, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """F and E of a pair: x_j^T F x_i = 0."""
    R, t = scene.pose(i, j)
    E = np.cross(np.eye(3), t / np.linalg.norm(t)) @ R
    K = []
    for c in scene.camera[[i, j]]:
        f, cx, cy = scene.cameras.parameters[c, :3]
        K.append(np.array([[f, 0, cx], [0, f, cy], [0, 0, 1]]))
    return np.linalg.inv(K[1]).T @ E @ np.linalg.inv(K[0]), E


def write(path: Path, scene: Scene, *, stored="F", new=True, rigs=False, prior=True, pairs=None):
    """A database; `stored` is "F", "E" (with F), or "pose" (with both), `new` COLMAP 4's schema.

    pairs : of images that have matches, all by default
    """
    n = len(scene.camera)
    pairs = list(itertools.combinations(range(n), 2)) if pairs is None else pairs
    tables = dict(TABLES)
    tables["two_view_geometries"] = GEOMETRIES + (", qvec blob, tvec blob" if new else "")
    if new:
        tables |= RIGS
    database = sqlite3.connect(path)
    for name, columns in tables.items():
        database.execute(f"create table {name} ({columns})")
    for i, (width, height) in enumerate(scene.cameras.size.tolist()):
        own = scene.cameras.model_of(i)
        parameters = scene.cameras.parameters[i, : len(own.parameters)]
        row = (i + 1, own.number, width, height, parameters.tobytes(), int(prior))
        database.execute("insert into cameras values (?, ?, ?, ?, ?, ?)", row)
    for i in range(n):
        database.execute(
            "insert into images values (?, ?, ?)",
            (3 * i + 2, f"ä {i}.jpg", int(scene.camera[i]) + 1),
        )
        keypoints = np.zeros((len(scene.xyz), 6), np.float32)
        keypoints[:, :2] = scene.xy[i][scene.order[i]]
        row = (3 * i + 2, *keypoints.shape, keypoints.tobytes())
        database.execute("insert into keypoints values (?, ?, ?, ?)", row)
    inverse = [np.argsort(order) for order in scene.order]
    for i, j in pairs:
        matches = np.stack([inverse[i], inverse[j]], 1).astype(np.uint32)
        F, E = fundamental(scene, i, j)
        row = [
            (3 * i + 2) * (2**31 - 1) + 3 * j + 2,
            *matches.shape,
            matches.tobytes(),
            3 if stored == "F" else 2,
            F.tobytes(),
            None if stored == "F" else E.tobytes(),
            None,
        ]
        if new:
            row += pose_blobs(scene, i, j) if stored == "pose" else [None, None]
        marks = ", ".join("?" * len(row))
        database.execute(f"insert into two_view_geometries values ({marks})", row)
    if rigs:
        database.execute("insert into rigs values (1, 1, 0)")
        database.execute("insert into rig_sensors values (1, 2, 0, null)")
    database.commit()
    database.close()


def pose_blobs(scene: Scene, i: int, j: int) -> list[bytes]:
    """qvec and tvec; w is positive for turns below half a circle."""
    R, t = scene.pose(i, j)
    w = np.sqrt(1 + np.trace(R)) / 2
    v = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / (4 * w)
    return [np.array([w, *v]).tobytes(), (t / np.linalg.norm(t)).tobytes()]


def similarity(a: np.ndarray, b: np.ndarray):
    """s, R, t of the similarity that takes points a to b best (Umeyama 1991)."""
    ma, mb = a.mean(0), b.mean(0)
    U, S, Vt = np.linalg.svd((b - mb).T @ (a - ma))
    sign = np.diag([1, 1, np.linalg.det(U @ Vt)])
    R = U @ sign @ Vt
    s = np.trace(np.diag(S) @ sign) / ((a - ma) ** 2).sum()
    return s, R, mb - s * R @ ma


def off(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance after a similarity, relative to the extent of b."""
    s, R, t = similarity(a, b)
    return float(np.linalg.norm(s * a @ R.T + t - b, axis=1).max() / np.ptp(b, axis=0).max())
