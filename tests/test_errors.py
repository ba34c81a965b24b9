"""What a user is told of errors that are not ours."""

import jax
import jax.numpy as jnp
import pytest

from esc_jax import errors


def test_what_xla_finds_no_room_for_is_said_to_be_memory():
    with pytest.raises(jax.errors.JaxRuntimeError) as found:
        jnp.zeros((1 << 50,)).block_until_ready()
    status, sentence = errors.describe_error(found.value, "a.wav")
    assert status == 1 and sentence.startswith("a.wav: the device has too little memory (") and "\n" not in sentence
