"""Embeddings of data sets and recordings, and their cache."""

import dataclasses

import numpy as np
import pytest
import soundfile

from esc_jax import config as configs
from esc_jax.data.stream import AudioStream
from esc_jax.inference import embeddings
from esc_jax.models import model as models
from esc_jax.pretrained import hubert
from esc_jax.training.step import embed_step


@pytest.fixture(scope="module")
def small_model():
    """A ResNet of two blocks: half a second at 16 kHz, 16 numbers."""
    config = configs.defaults("resnet")
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.model.encoder.update(stage_sizes=(1, 1), width=8)
    return models.create(config, ("a", "b", "c"))


@pytest.fixture(scope="module")
def masking():
    """A small HuBERT, which masks padding, with clips of 5 s; and its config."""
    config = configs.defaults("hubert", "projected", "raw")
    config.data.update(sample_rate=16_000, clip_s=5.0, mask_padding=True)
    config.model.encoder.update(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_kernel=(10, 5), conv_stride=(8, 8), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return models.create(config, ("a", "b", "c")), config


def encode(model, audio, padding=None):
    """Embeddings of int16 clips, without batching or compilation."""
    features = model.frontend(audio.astype(np.float32) / 32768, padding)
    return model.module.apply(model.variables, features, padding=padding, method="encode").embedding


def test_views_are_the_clips_and_their_rotations(small_model, noise_clips, tmp_path):
    result = embeddings.embed_clips(small_model, noise_clips, tmp_path, views=2, batch_size=5)
    assert result.shape == (2, 12, 16) and result.dtype == np.float32
    audio = noise_clips.read(range(12))
    for view in range(2):  # the second is rotated by half the clip
        expected = encode(small_model, np.roll(audio, view * 4000, axis=1))
        np.testing.assert_allclose(result[view], expected, atol=1e-5)  # batches of another size


def test_an_interrupted_pass_continues_and_a_finished_one_is_read(small_model, noise_clips, tmp_path):
    steps = []
    options = {"views": 2, "batch_size": 5, "progress": lambda done, total: steps.append((done, total))}
    whole = embeddings.embed_clips(small_model, noise_clips, tmp_path, **options)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    (folder,) = tmp_path.iterdir()
    batches = sorted(folder.iterdir())
    assert [path.name for path in batches] == ["000000.npz", "000005.npz", "000010.npz"]
    batches[1].unlink()
    marked = np.load(batches[2])["embeddings"] + 1
    np.savez(batches[2], embeddings=marked)  # a mark: this batch must be read from disk
    steps.clear()
    again = embeddings.embed_clips(small_model, noise_clips, tmp_path, **options)
    assert steps == [(3, 3)]
    np.testing.assert_allclose(again[:, :10], whole[:, :10], atol=1e-6)
    np.testing.assert_array_equal(again[:, 10:], marked)


def test_the_digest_changes_with_what_the_embeddings_depend_on(small_model, noise_clips):
    digest = embeddings.digest(small_model, noise_clips, 1)
    params = small_model.variables["params"]
    other_head = {**small_model.variables, "params": {**params, "head": {}}}
    assert embeddings.digest(small_model.with_variables(other_head), noise_clips, 1) == digest
    changed = [
        (small_model.with_variables({"params": params, "batch_stats": {}}), noise_clips, 1),
        (dataclasses.replace(small_model, frontend=None), noise_clips, 1),
        (small_model, dataclasses.replace(noise_clips, fingerprint="other"), 1),
        (small_model, dataclasses.replace(noise_clips, length=4000), 1),
        (small_model, noise_clips, 2),
    ]
    assert digest not in {embeddings.digest(*arguments) for arguments in changed}


@pytest.mark.slow
def test_windows_of_a_recording_end_with_it(small_model, tmp_path):
    samples = np.random.default_rng(0).integers(-9000, 9000, 16_000 + 4_000, dtype=np.int16)
    lengths = {20_000: [0, 8_000, 12_000], 8_010: [0], 3_000: [0]}  # less than a hundredth of a window gets none
    for length, starts in lengths.items():
        soundfile.write(tmp_path / "a.wav", samples[:length], 16_000)
        stream = AudioStream(tmp_path / "a.wav", 16_000)
        positions, rows = embeddings.embed_recording(embed_step(small_model), small_model, stream, batch_size=2)
        assert positions.tolist() == starts
        windows = [samples[:length][start : start + 8_000] for start in starts]
        clips = np.stack([np.pad(window, (0, 8_000 - len(window))) for window in windows])
        np.testing.assert_allclose(rows, encode(small_model, clips), atol=1e-5)


@pytest.mark.extended
def test_padding_is_masked(masking, noise_clips, tmp_path):
    """In recordings and in a data set, by a published encoder that masks padding."""
    model, config = masking
    settings = {"sample_rate": 16_000, **config.frontend}
    hubert.write(tmp_path / "published", model.variables, config.model.encoder, noise_clips.classes, settings)
    published = embeddings.load_encoder(str(tmp_path / "published"))
    assert published.mask_padding and published.clip_samples == 80_000
    samples = noise_clips.fetch(0)
    clip = np.pad(samples, (0, 80_000 - len(samples)))[None]
    masked = encode(model, clip, np.arange(80_000)[None] >= len(samples))[0]
    unmasked = encode(model, clip)[0]
    assert np.abs(masked - unmasked).max() > 1e-3

    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    stream = AudioStream(tmp_path / "a.wav", 16_000)
    np.testing.assert_allclose(
        embeddings.embed_recording(embed_step(published), published, stream)[1][0], masked, atol=1e-5
    )
    for mask_padding, expected in ((True, masked), (False, unmasked)):
        clips = dataclasses.replace(noise_clips, length=80_000, mask_padding=mask_padding)
        np.testing.assert_allclose(embeddings.embed_clips(model, clips, tmp_path / "e")[0, 0], expected, atol=1e-5)


def test_an_encoder_is_a_run_or_a_published_checkpoint(untrained):
    assert embeddings.load_encoder(str(untrained)).classes == ("rain", "sea_waves", "dog")
    with pytest.raises(embeddings.EmbedError, match="sample_rate=8000 is for published encoders"):
        embeddings.load_encoder(str(untrained), 8000)
