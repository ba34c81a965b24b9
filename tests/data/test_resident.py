"""Clips on the devices: the same batches as from the host, and when they are placed there."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from esc_jax.data import pipeline, resident
from esc_jax.errors import ConfigError
from esc_jax.evaluation.predict import predict_clips
from esc_jax.runtime import devices


@pytest.fixture
def padded_clips(noise_clips):
    lengths = np.arange(12) + 100
    return dataclasses.replace(
        noise_clips, samples=lengths, fetch=lambda i: noise_clips.fetch(i)[: lengths[i]], mask_padding=True
    )


@pytest.mark.parametrize("process", [{}, {"process_index": 1, "process_count": 2}])
@pytest.mark.parametrize("weights", [None, np.arange(10.0)])
def test_an_index_stands_for_the_row_of_the_same_batch(padded_clips, process, weights):
    options = {"seed": 3, "weights": weights, **process}
    from_host = pipeline.train_batches(padded_clips, range(2, 12), 4, **options)
    indices = pipeline.train_batches(padded_clips, range(2, 12), 4, index_only=True, **options)
    clips = resident.ResidentClips(padded_clips)
    for _ in range(5):
        expected, batch = next(from_host), next(indices)
        assert list(batch) == ["index"]
        rows = resident.gather(clips.arrays, batch["index"])
        assert rows.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(rows[key], value)
            assert rows[key].dtype == value.dtype
    # A run that starts with one kind of batches continues with the other.
    indices.set_state(from_host.get_state())
    np.testing.assert_array_equal(
        resident.gather(clips.arrays, next(indices)["index"])["audio"], next(from_host)["audio"]
    )


@pytest.mark.parametrize("count_devices", [1, 2, 4])
def test_steps_are_the_same_as_from_the_host(noise_clips, count_devices):
    """A step whose sums are exact, with a random number for each example of the global batch."""

    def step(state, batch, constants=None):
        number, total = state
        keys = devices.example_keys(jax.random.fold_in(jax.random.key(0), number), len(batch["label"]))
        drawn = jax.vmap(lambda key: jax.random.randint(key, (), -9, 9))(keys)
        values = drawn * (batch["audio"].astype(np.int32).sum(-1) + batch["label"])
        loss = jax.lax.psum(values.sum(), devices.AXIS)
        return (number + 1, total + loss), {"loss": loss, "drawn": devices.all_gather(drawn)}

    clips = resident.ResidentClips(noise_clips)
    arrays = devices.replicate((clips.arrays, None), count_devices)
    plain = devices.pmap_step(step, count_devices)
    gathered = functools.partial(devices.pmap_step(resident.gathered(step), count_devices), constants=arrays)
    calls = {
        most: functools.partial(devices.pmap_steps(resident.gathered(step), most, count_devices), constants=arrays)
        for most in (2, 5)
    }
    host_calls = devices.pmap_steps(step, 3, count_devices)

    def run(mapped, steps, **options):
        """(final state, metrics of every step), with `steps` steps in each call; 0: plain batches."""
        batches = pipeline.train_batches(noise_clips, range(12), 4, seed=1, **options)
        state, metrics = devices.replicate((np.int32(0), np.int32(0)), count_devices), []
        while len(metrics) < 6:
            of_call = [next(batches) for _ in range(min(steps or 1, 6 - len(metrics)))]
            state, new = mapped(state, of_call if steps else of_call[0])
            new = {key: np.asarray(value) if steps else np.asarray(value)[None] for key, value in new.items()}
            metrics += [{key: value[i].tolist() for key, value in new.items()} for i in range(len(of_call))]
        return [int(x) for x in state], metrics

    expected = run(plain, 0)
    assert len({tuple(line["drawn"]) for line in expected[1]}) == 6 and expected[0][0] == 6
    assert run(gathered, 0, index_only=True) == expected
    assert run(calls[2], 2, index_only=True) == expected
    assert run(calls[5], 5, index_only=True) == expected  # five steps, and one
    assert run(host_calls, 3) == expected


@pytest.mark.parametrize("batch_size", [1, 4, 5, 50])
def test_predictions_are_those_from_the_host(padded_clips, batch_size):
    def step(variables, audio, samples):
        return (audio[None, :, :3].astype(np.float32) * variables, samples[None, :, None])

    indices, clips = [7, 0, 11, 3, 4, 5, 6, 1, 2], resident.ResidentClips(padded_clips)
    from_host = predict_clips(step, 2.0, padded_clips, indices, batch_size)
    for one, other in zip(from_host, predict_clips(step, 2.0, padded_clips, indices, batch_size, clips), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("padded", ["clips", "background"])
def test_the_batches_of_a_test_have_the_keys_of_those_from_the_host(noise_clips, padded_clips, padded):
    one, other = (padded_clips, noise_clips) if padded == "clips" else (noise_clips, padded_clips)
    clips = dataclasses.replace(one, background=other, mask_padding=True)
    (batch,) = resident.ResidentClips(clips).eval_batches(range(12), 12)
    (expected,) = pipeline.eval_batches(clips, range(12), 12)
    assert batch.keys() == expected.keys()


def test_the_background_follows_the_clips(noise_clips):
    background = dataclasses.replace(noise_clips, fetch=lambda i: noise_clips.fetch(i)[::-1])
    arrays = resident.ResidentClips(dataclasses.replace(noise_clips, background=background)).arrays
    np.testing.assert_array_equal(arrays["label"], [*noise_clips.labels, *[-1] * 12])
    np.testing.assert_array_equal(arrays["audio"][12:], noise_clips.read(range(12))[:, ::-1])
    assert len(arrays["audio"].sharding.device_set) == jax.local_device_count()  # a copy on each


def test_when_the_clips_are_placed(noise_clips, monkeypatch, caplog):
    caplog.set_level("INFO")
    size = 2 * 12 * noise_clips.length
    assert resident.place(noise_clips, "auto") is None  # on a CPU
    assert not caplog.messages
    assert resident.place(noise_clips, "true")
    assert caplog.messages == ["the clips are kept on the device (0 MB)"]
    for memory, modes in ((4 * size, {"auto", "true"}), (4 * size - 1, {"true"}), (size, {"true"})):
        monkeypatch.setattr(devices, "memory_bytes", lambda memory=memory: memory)
        caplog.clear()
        assert {mode for mode in resident.MODES if resident.place(noise_clips, mode)} == modes
        stays = [message for message in caplog.messages if "stay on the host" in message]
        assert stays == ["the clips (0.0 GB) stay on the host: a device has 0.0 GB"] * ("auto" not in modes)
    monkeypatch.setattr(devices, "memory_bytes", lambda: size - 1)
    with pytest.raises(ConfigError, match=r"config.data.on_device=true: the clips take .* GB, and a device has"):
        resident.place(noise_clips, "true")
