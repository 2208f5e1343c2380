"""Pictures of observations."""

import numpy as np
import pytest

from wnseq.data.environments import EnvironmentSpec, draw_episodes, draw_observation


def test_images_are_grey():
    image = np.zeros((3, 2, 2), np.uint8)
    image[:, 0, 1] = 51, 102, 204
    picture = draw_observation(EnvironmentSpec("x", (3, 2, 2), 255, 4), image)
    np.testing.assert_allclose(picture, [[0, 119 / 255], [0, 0]])
    stack = np.concatenate((np.full((3, 2, 2), 9, np.uint8), image))
    latest = draw_observation(EnvironmentSpec("x", (6, 2, 2), 255, 4, frame_stack=2), stack)
    np.testing.assert_array_equal(latest, picture)


@pytest.mark.parametrize("observation", [(1.2, 0.0, 0.3, 0.0), (1.2, 0.3)], ids=["whole", "positions"])
def test_a_cart_is_where_it_is_and_its_pole_leans(observation):
    spec = EnvironmentSpec("CartPole-v1", (len(observation),), None, 2)
    picture = draw_observation(spec, np.array(observation, np.float32))
    cart, pole = np.argwhere(picture == 0.2), np.argwhere(picture == 0.5)
    assert cart[:, 1].mean() == pytest.approx(50 + 1.2 / 4.8 * 100, abs=1)
    top, bottom = (pole[pole[:, 0] == row][:, 1].mean() for row in (pole[:, 0].min(), pole[:, 0].max()))
    assert top > bottom


def test_numbers_are_bars_from_the_middle():
    picture = draw_observation(EnvironmentSpec("x", (3,), None, 2), np.array([-1.0, 0.0, 9.0]))
    lengths = [(picture[row] < 1).sum() for row in (5, 25, 45)]
    assert lengths[0] > 45 and lengths[1] <= 2 and lengths[2] > 45
    assert picture[5, 0] < 1 and picture[45, -1] < 1


def test_a_shorter_episode_stays_on_its_last_picture():
    spec, draw = EnvironmentSpec("x", (3,), None, 2), np.random.default_rng(0)
    episodes = [draw.uniform(-1, 1, (length, 3)) for length in (4, 2)]
    drawn = draw_episodes(spec, episodes)
    assert drawn.shape[:2] == (4, 2)
    for step, (first, second) in enumerate(drawn):
        np.testing.assert_array_equal(first, draw_observation(spec, episodes[0][step]))
        np.testing.assert_array_equal(second, draw_observation(spec, episodes[1][min(step, 1)]))
