import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hpckit.errors import ConfigError
from hpckit.sfm.similarity import align

RANDOM = np.random.default_rng(7)


@pytest.mark.parametrize("n", [3, 50])
@pytest.mark.parametrize("scale", [1e-6, 3.0])
def test_a_similarity_is_found_again(n, scale):
    x = RANDOM.normal(size=(n, 3)) + 1e3
    turn = Rotation.random(random_state=3).as_matrix()
    found = align(x, scale * x @ turn.T + [1, -2, 3])
    np.testing.assert_allclose(found.rotation, turn, atol=1e-9)
    assert found.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(found.apply(x), scale * x @ turn.T + [1, -2, 3], atol=1e-6)


def test_it_is_a_rotation_of_mirrored_and_of_flat_points():
    x = RANDOM.normal(size=(20, 3))
    for target in (x * [1, 1, -1], x * [1, 1, 0]):
        assert np.linalg.det(align(x, target).rotation) == pytest.approx(1)


def test_no_other_one_is_nearer():
    x, y = RANDOM.normal(size=(2, 15, 3))
    found = align(x, y)
    least = ((found.apply(x) - y) ** 2).sum()
    for _ in range(50):
        turn = Rotation.from_rotvec(1e-2 * RANDOM.normal(size=3)).as_matrix() @ found.rotation
        near = found._replace(
            scale=found.scale * (1 + 1e-2 * RANDOM.normal()),
            rotation=turn,
            translation=found.translation + 1e-2 * RANDOM.normal(size=3),
        )
        assert ((near.apply(x) - y) ** 2).sum() > least


def test_one_point_is_moved_and_none_is_refused():
    np.testing.assert_allclose(align(np.ones((1, 3)), np.zeros((1, 3))).apply(np.ones((1, 3))), 0)
    with pytest.raises(ConfigError, match="no point"):
        align(np.empty((0, 3)), np.empty((0, 3)))
    with pytest.raises(ConfigError, match="same shape"):
        align(np.ones((2, 3)), np.ones((3, 3)))
