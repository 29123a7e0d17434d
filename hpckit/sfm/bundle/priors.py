"""What is known of images besides what they see: where they stand, and how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike

from hpckit.errors import ConfigError
from hpckit.sfm import rotations
from hpckit.sfm.bundle.frame import Frame
from hpckit.sfm.bundle.state import State
from hpckit.sfm.losses import Cauchy, Huber, Loss, SoftL1, robust
from hpckit.sfm.reconstruction import Images


@dataclass(frozen=True)
class PositionPrior:
    """The centre of an image is near `position`, as a receiver of satellites says.

    image : its id; position : (3,), in the world's units; sigma : of it, one or (3,), in the same;
    loss : of |(centre - position) / sigma|, so its scale is in sigmas

    ::

        bundle_adjust(reconstruction, priors=[PositionPrior(7, (1.0, 2.0, 0.5), sigma=0.1)])
    """

    image: int
    position: ArrayLike
    sigma: ArrayLike
    loss: Loss | None = None


@dataclass(frozen=True)
class PosePrior:
    """An image has about this pose.

    image : its id; quaternion : (4,), w x y z, world to camera; translation : (3,), so that the
    centre is -R't; sigma_rotation : radians; sigma_position : of the centre, in the world's units;
    loss : of each of the two, as of `PositionPrior`

    ::

        PosePrior(7, (1, 0, 0, 0), (0, 0, 5.0), sigma_rotation=0.01, sigma_position=0.1)
    """

    image: int
    quaternion: ArrayLike
    translation: ArrayLike
    sigma_rotation: ArrayLike
    sigma_position: ArrayLike
    loss: Loss | None = None


Prior = PositionPrior | PosePrior


class Priors:
    """Their residuals, 3 each, and how these change with the poses, in the frame of the solver.

    Of the centre r = (c - p) / sigma with c = -R't, so dr = R'(w x t - dt) / sigma for a rotation
    exp(w) R; of the rotation r = log(R P') / sigma, so dr = (1 - [r]x / 2 + ...) w / sigma.
    """

    def __init__(
        self, comm: MPI.Intracomm, priors: Sequence[Prior], images: Images, frame: Frame
    ) -> None:
        terms = [term for prior in priors for term in _terms(prior, images, frame)]
        self._comm = comm
        self._image = np.array([term.image for term in terms], int)
        self._turns = np.array([term.turns for term in terms], bool)
        self._target = np.array([term.target for term in terms])
        self._sigma = np.array([term.sigma for term in terms])
        self._loss = [term.loss for term in terms]
        self._mine = np.ones(len(terms), bool)
        self.hessian = np.zeros((len(images), 6, 6))
        self.gradient = np.zeros((len(images), 6))

    def own(self, images: slice) -> None:
        """Let this rank count those of these images alone."""
        places = np.arange(len(self.hessian))[images]
        self._mine = np.isin(self._image, places)

    def linearise(self, state: State) -> float:
        """Set `hessian` and `gradient` of this rank's images; the cost of all (collective)."""
        r, j = self._residuals(state)
        value, slope = self._rho(r)
        self.hessian[:] = 0
        self.gradient[:] = 0
        mine = np.flatnonzero(self._mine)
        weighted = slope[:, None, None] * j
        at = self._image[mine]
        np.add.at(self.hessian, at, (j.transpose(0, 2, 1) @ weighted)[mine])
        np.add.at(self.gradient, at, np.einsum("nij,ni->nj", weighted, r)[mine])
        return self._total(value)

    def cost(self, state: State) -> float:
        """1/2 sum rho(|r|^2) of all (collective)."""
        return self._total(self._rho(self._residuals(state)[0])[0])

    def decrease(self, steps: np.ndarray) -> float:
        """By how much steps (images, 6) lower the cost, in the linear model (collective)."""
        linear = np.einsum("ni,ni->n", self.gradient, steps)
        square = np.einsum("ni,nij,nj->n", steps, self.hessian, steps)
        return -self._sum(linear + 0.5 * square)

    def _residuals(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """r (n, 3) and its Jacobian (n, 3, 6)."""
        rotation, translation = state.rotation[self._image], state.translation[self._image]
        back = rotation.transpose(0, 2, 1)
        sigma = self._sigma
        centre = -(back @ translation[..., None])[..., 0]
        r = centre - self._target[:, :3]
        j = np.concatenate([-back @ _cross(translation), -back], axis=2)
        turned = rotations.multiply(
            state.quaternion[self._image], rotations.conjugate(self._target)
        )
        angle = rotations.log(np.where(self._turns[:, None], turned, [1.0, 0, 0, 0]))
        by_turn = _by_turn(angle)
        by_angle = np.concatenate([by_turn, np.zeros_like(by_turn)], axis=2)
        turns = self._turns[:, None]
        r = np.where(turns, angle, r) / sigma
        j = np.where(turns[..., None], by_angle, j) / sigma[..., None]
        return r, j

    def _rho(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """rho(|r|^2) and its derivative."""
        s = np.einsum("ni,ni->n", r, r)
        both = [_robust(loss, float(x)) for loss, x in zip(self._loss, s, strict=True)]
        value, slope = np.array(both).reshape(-1, 2).T
        return value, slope

    def _total(self, value: np.ndarray) -> float:
        values = np.zeros(len(self.hessian))
        np.add.at(values, self._image[self._mine], value[self._mine])
        return 0.5 * self._sum(values)

    def _sum(self, of_images: np.ndarray) -> float:
        """Each image is one rank's: the order of the sum is the same for any number of ranks."""
        return float(self._comm.allreduce(of_images).sum())


@dataclass
class _Term:
    """One residual: of the centre, or of the rotation."""

    image: int  # its place
    turns: bool
    target: np.ndarray  # (4,): a quaternion, or a centre and 0
    sigma: np.ndarray  # (3,)
    loss: Loss | None


def _terms(prior: Prior, images: Images, frame: Frame) -> list[_Term]:
    if not isinstance(prior, PositionPrior | PosePrior):
        raise ConfigError(f"priors: {prior!r} is neither PositionPrior nor PosePrior")
    place = np.flatnonzero(images.ids == prior.image)
    if not len(place):
        raise ConfigError(f"prior of image {prior.image}: there is none of that id")
    robust(prior.loss)
    image = int(place[0])
    if isinstance(prior, PositionPrior):
        return [_centre(image, prior.position, prior.sigma, prior.loss, frame)]
    quaternion = rotations.normalise(_vector(prior.quaternion, 4, "quaternion"))
    translation = _vector(prior.translation, 3, "translation")
    centre = -rotations.rotate(rotations.conjugate(quaternion), translation)
    sigma = _positive(prior.sigma_rotation, "sigma_rotation")
    return [
        _Term(image, True, quaternion, sigma, prior.loss),
        _centre(image, centre, prior.sigma_position, prior.loss, frame),
    ]


def _centre(
    image: int, position: ArrayLike, sigma: ArrayLike, loss: Loss | None, frame: Frame
) -> _Term:
    target = np.append(frame.points_in(_vector(position, 3, "position")), 0.0)
    return _Term(image, False, target, frame.scale * _positive(sigma, "sigma"), loss)


def _vector(value: ArrayLike, n: int, what: str) -> np.ndarray:
    array = np.asarray(value, float)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise ConfigError(f"{what} {value!r} of a prior: give {n} finite numbers")
    return array


def _positive(value: ArrayLike, what: str) -> np.ndarray:
    array = np.asarray(value, float)
    if array.shape not in ((), (3,)) or not (np.isfinite(array) & (array > 0)).all():
        raise ConfigError(f"{what} {value!r} of a prior: give one or three positive numbers")
    return np.broadcast_to(array, 3).copy()


def _robust(loss: Loss | None, s: float) -> tuple[float, float]:
    """rho(s) and rho'(s), as in `hpckit/sfm/kernels/losses.py`."""
    if loss is None:
        return s, 1.0
    a = loss.scale
    if isinstance(loss, Huber):
        root = np.sqrt(s)
        return (s, 1.0) if root <= a else (a * (2 * root - a), a / root)
    t = s / (a * a)
    if isinstance(loss, Cauchy):
        return a * a * np.log1p(t), 1 / (1 + t)
    assert isinstance(loss, SoftL1)
    return 2 * a * a * (np.sqrt(1 + t) - 1), 1 / np.sqrt(1 + t)


def _cross(v: np.ndarray) -> np.ndarray:
    """[v]x of each: (n, 3, 3)."""
    x, y, z = v.T
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _by_turn(angle: np.ndarray) -> np.ndarray:
    """d log(exp(w) exp(angle)) / dw at w = 0, (n, 3, 3): the inverse of SO(3)'s left Jacobian."""
    length = np.linalg.norm(angle, axis=1)[:, None, None]
    half = 0.5 * length
    small = length < 1e-4
    safe = np.where(small, 1.0, half)
    curve = np.where(small, 1 / 12 + length**2 / 720, (1 - safe / np.tan(safe)) / (4 * safe**2))
    cross = _cross(angle)
    return np.eye(3) - 0.5 * cross + curve * cross @ cross
