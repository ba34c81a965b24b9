"""Views of a clip, compared with numpy and with closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.augment import views
from esc_jax.augment.views import Views


def test_rotations_and_the_first_is_the_clip():
    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    for k, view in enumerate(views.rotations(x, 5)):
        np.testing.assert_array_equal(view, np.roll(x, 20 * k, axis=1))


def test_rotations_of_a_padded_clip_leave_the_padding():
    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    samples = np.array([63, 100], np.int32)
    for k, view in enumerate(views.rotations(x, 5, samples)):
        for row, (clip, n) in enumerate(zip(x, samples, strict=True)):
            np.testing.assert_array_equal(view[row], np.concatenate([np.roll(clip[:n], n // 5 * k), clip[n:]]))


@pytest.mark.parametrize(("count", "starts"), [(10, [0, 8, 16, 23, 31, 39, 47, 54, 62, 70]), (2, [0, 70]), (1, [0])])
def test_crops_cover_the_clip_at_equal_distances(count, starts):
    x = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
    of_views = views.crops(jnp.asarray(x), count, 30)
    assert of_views.shape == (count, 3, 30)
    for view, start in zip(of_views, starts, strict=True):
        np.testing.assert_array_equal(view, x[:, start : start + 30])


def test_speeds_change_the_frequency():
    """A sine of f cycles a sample has f · 2^u cycles at the speed 2^u; the middle view is the middle of the clip."""
    time = np.arange(4000)
    x = np.sin(2 * np.pi * 0.01 * time).astype(np.float32)[None]
    of_views = np.asarray(views.speeds(jnp.asarray(x), 3, 0.5))
    length = int(4000 / 2**0.5)
    assert of_views.shape == (3, 1, length)
    for view, octaves in zip(of_views, (-0.5, 0.0, 0.5), strict=True):
        speed = 2.0**octaves
        middle = (len(time) - 1) / 2 + speed * (np.arange(length) - (length - 1) / 2)
        # Linear interpolation of a sine with 100 samples a cycle: an error of (2 π / 100)² / 8.
        np.testing.assert_allclose(view[0], np.sin(2 * np.pi * 0.01 * middle), atol=6e-4)


def test_kinds_by_name():
    x = jnp.ones((2, 64))
    assert Views("crops", 4, crop_samples=16)(x).shape == (4, 2, 16)
    assert Views("speeds", 4, octaves=1.0)(x).shape == (4, 2, 32)
    assert Views(count=4)(x).shape == (4, 2, 64)
    assert [Views(kind).include_clip for kind in views.KINDS] == [True, False, False]
