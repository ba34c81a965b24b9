"""One pass over clips, for any batch size."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.evaluation.predict import predict_clips


@pytest.mark.parametrize("batch_size", [1, 4, 5, 50])
def test_every_clip_once_and_in_order(noise_clips, batch_size):
    shapes = set()

    def step(variables, audio):
        shapes.add(audio.shape)
        first = jnp.asarray(audio[:, :2], jnp.float32) * variables
        return jnp.stack([first, -first])

    indices = [7, 0, 11, 3, 4, 5, 6, 1, 2]
    outputs = predict_clips(step, 2.0, noise_clips, indices, batch_size)
    expected = 2.0 * noise_clips.read(indices)[:, :2]
    np.testing.assert_array_equal(outputs, [expected, -expected])
    assert shapes == {(batch_size, 8000)}  # one program


def test_the_step_receives_the_lengths_of_padded_clips(noise_clips):
    lengths = np.arange(12) + 100
    clips = dataclasses.replace(
        noise_clips, samples=lengths, fetch=lambda i: noise_clips.fetch(i)[: lengths[i]], mask_padding=True
    )
    outputs = predict_clips(lambda variables, audio, samples: samples[None, :, None], None, clips, range(12), 5)
    np.testing.assert_array_equal(outputs[0, :, 0], lengths)


def test_a_step_with_several_outputs(noise_clips):
    def step(variables, audio):
        return audio[None, :, :2], audio[None, :, :5]

    one, other = predict_clips(step, None, noise_clips, [3, 1, 2], 2)
    audio = noise_clips.read([3, 1, 2])
    np.testing.assert_array_equal(one[0], audio[:, :2])
    np.testing.assert_array_equal(other[0], audio[:, :5])
