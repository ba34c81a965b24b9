"""Augmentations against their definitions."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from esc_jax import config as configs
from esc_jax.augment import compose, draws, mix, spectrogram, waveform
from esc_jax.frontends import registry as frontends
from esc_jax.runtime import devices

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal(8000).astype(np.float32)


def test_gain_is_one_factor_within_its_range():
    result = jax.vmap(lambda k: waveform.gain(k, X, 6.0))(jax.random.split(KEY, 200))
    ratio = result / X[None]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5)
    decibels = 20 * np.log10(ratio[:, 0])
    assert np.abs(decibels).max() <= 6.001 and decibels.min() < -5 and decibels.max() > 5


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_roll_is_a_rotation_within_its_range(fraction):
    shift = jax.vmap(lambda k: waveform.draw_shift(k, 8000, fraction))
    result = np.asarray(jax.vmap(waveform.rotate, (None, 0))(X, shift(jax.random.split(KEY, 50))))
    places = np.argmax(result == X[0], axis=1)
    for row, place in zip(result, places, strict=True):
        np.testing.assert_array_equal(row, np.roll(X, place))
        assert min(place, 8000 - place) <= 4000 * fraction
    assert len(set(places)) > 40


def test_noise_stays_below_its_share_and_leaves_silence():
    added = waveform.noise(KEY, X, 0.5) - X
    assert 0 < np.sqrt(np.mean(added**2)) <= 0.51 * np.sqrt(np.mean(X**2))
    assert not waveform.noise(KEY, jnp.zeros(100), 0.5).any()


def test_plain_crop_is_a_window_of_the_clip():
    for key in jax.random.split(KEY, 20):
        result = np.asarray(waveform.crop(key, X, 1000))
        start = int(np.argmax(result[0] == X))
        np.testing.assert_array_equal(result, X[start : start + 1000])


def test_more_tries_contain_the_event_more_often():
    clip = np.zeros(32_000, np.float32)
    clip[8000:10_000] = 1.0
    keys = jax.random.split(KEY, 300)

    def silent(tries):
        return float(np.mean([not w.any() for w in jax.vmap(lambda k: waveform.crop(k, clip, 8000, 0.0, tries))(keys)]))

    # The window hits the event with probability 10,000 / 24,000.
    assert abs(silent(1) - 7 / 12) < 0.1
    assert abs(silent(3) - (7 / 12) ** 3) < 0.08


@pytest.mark.parametrize("octaves, tries", [(0.0, 1), (0.3, 1), (0.3, 3)])
def test_a_crop_of_a_rotated_clip_equals_the_two_steps(octaves, tries):
    """The places are integers, so that the values are equal to the bit, and float32 sums of the levels as well."""
    clip = np.repeat(np.random.default_rng(4).integers(1, 100, 32), 256).astype(np.float32)  # blocks of one level

    def crop(key, x, shift=None):
        return waveform.crop(key, x, 2000, octaves, tries, shift)

    both = jax.jit(crop)
    for key, shift in zip(jax.random.split(KEY, 12), 256 * np.arange(-16, 20, 3), strict=True):
        expected = both(key, np.roll(clip, shift))
        np.testing.assert_array_equal(both(key, clip, jnp.int32(shift)), expected)
    if tries == 1:  # any shift: the level of blocks plays no part
        for key, shift in zip(jax.random.split(KEY, 12), range(-4000, 4000, 667), strict=True):
            np.testing.assert_array_equal(both(key, X, jnp.int32(shift)), both(key, np.roll(X, shift)))


def test_the_loudest_window_of_a_rotated_clip():
    """Of windows drawn from a rotated clip, the one that contains most of its only event."""
    clip = np.zeros(32_000, np.float32)
    clip[30_000:] = 1.0
    keys = jax.random.split(KEY, 300)
    crops = jax.jit(jax.vmap(lambda k: waveform.crop(k, clip, 8000, 0.0, 3, jnp.int32(10_000))))(keys)
    # The event is rotated to 8000 … 10,000. A window begins between 0 and 24,000, and hits it with 10,000 of these.
    silent = float(np.mean([not window.any() for window in np.asarray(crops)]))
    assert abs(silent - (14 / 24) ** 3) < 0.08


def test_speed_changes_the_pitch_of_a_tone():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    result = np.asarray(jax.vmap(lambda k: waveform.crop(k, tone, 8000, 0.5))(jax.random.split(KEY, 40)))
    peaks = np.abs(np.fft.rfft(result * np.hanning(8000))).argmax(axis=1) * 2.0
    octaves = np.log2(peaks / 1000)
    assert np.abs(octaves).max() <= 0.51 and octaves.min() < -0.3 and octaves.max() > 0.3


@pytest.mark.parametrize("time, samples", [(16_000, 8000), (240_000, 200_000), (9000, 8999)])
def test_speed_equals_numpy_interpolation(time, samples):
    ramp = np.arange(time, dtype=np.float32)
    x = np.random.default_rng(0).standard_normal(time).astype(np.float32)
    for key in jax.random.split(KEY, 5):
        # Of a ramp, the crop is the places themselves.
        places = np.asarray(waveform.crop(key, ramp, samples, 0.3), np.float64)
        assert places[0] >= 0 and places[-1] < time - 1
        rate = (places[-1] - places[0]) / (samples - 1)
        assert 2**-0.301 < rate < 2**0.301
        exact = places[0] + rate * np.arange(samples)
        # The ramp itself is in float32: 1/64 of a sample at 240,000.
        np.testing.assert_allclose(places, exact, atol=1 / 64)
        expected = np.interp(exact, np.arange(time), x)
        # Rates are known to 2⁻¹⁴ of a sample by then, noise changes by several from one to the next.
        np.testing.assert_allclose(waveform.crop(key, x, samples, 0.3), expected, atol=0.1)


@pytest.mark.parametrize("axis", [0, 1])
def test_mask_covers_whole_rows_no_wider_than_asked(axis):
    x = np.random.default_rng(1).standard_normal((50, 40)).astype(np.float32)
    for key in jax.random.split(KEY, 30):
        result = np.asarray(spectrogram.mask(key, x, axis, 10, 2))
        changed = (result != x).any(axis=1 - axis)
        assert changed.sum() <= 20
        assert (np.diff(np.flatnonzero(np.diff(np.r_[0, changed, 0])))[::2] <= 20).all()
        np.testing.assert_allclose(np.take(result, np.flatnonzero(changed), axis), x.mean(), rtol=1e-5)


def test_frequency_warp_equals_numpy_interpolation():
    x = np.random.default_rng(1).standard_normal((7, 33)).astype(np.float32)
    stretch_key, shift_key = jax.random.split(KEY)
    stretch = 1 + jax.random.uniform(stretch_key, minval=-0.2, maxval=0.2)
    shift = jax.random.uniform(shift_key, minval=-0.2, maxval=0.2) * 16.5
    position = (np.arange(33) - 16) * float(stretch) + 16 + float(shift)
    expected = [np.interp(position, np.arange(33), row) for row in x]
    np.testing.assert_allclose(spectrogram.frequency_warp(KEY, x, 0.2), expected, atol=1e-4)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(weight=st.floats(0.5, 1.0), level=st.floats(0.01, 10.0))
def test_mixing_keeps_the_level_and_the_weight(weight, level):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20_000).astype(np.float32)
    other = (level * rng.standard_normal(20_000)).astype(np.float32)
    mixed = np.asarray(mix.mix_waveforms(jnp.float32(weight), x, other))
    assert abs(np.sqrt(np.mean(mixed**2)) - np.sqrt(np.mean(x**2))) < 0.03  # independent sounds, 20,000 samples
    # The components along the sounds have the ratio λ : 1 − λ.
    along = np.linalg.lstsq(np.stack([x, other / level], 1), mixed, rcond=None)[0]
    assert abs(along[0] / along.sum() - weight) < 0.02


def test_mixing_with_silence_is_finite():
    assert np.isfinite(mix.mix_waveforms(jnp.float32(0.5), X, np.zeros_like(X))).all()
    assert np.isfinite(jax.grad(lambda x: mix.mix_waveforms(jnp.float32(0.5), x, np.zeros_like(X)).sum())(X)).all()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 10.0, 100.0])
def test_symmetric_beta_equals_the_quantiles_of_scipy(alpha):
    keys = jax.random.split(KEY, 4000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: draws.symmetric_beta(k, alpha)))(keys), np.float64)
    uniform = np.asarray(jax.vmap(jax.random.uniform)(keys), np.float64)
    beta = scipy.stats.beta(alpha, alpha)
    np.testing.assert_allclose(drawn, beta.ppf(uniform), atol=1e-4 if alpha > 10 else 1e-5)
    lower = drawn[drawn < 0.5]  # near 1, many draws are equal in float32
    assert scipy.stats.kstest(lower, lambda x: 2 * beta.cdf(x)).pvalue > 1e-3
    assert abs(len(lower) / len(drawn) - 0.5) < 0.04


def test_mixup_weights_follow_the_folded_beta():
    weights = np.asarray(jax.vmap(lambda k: mix.mixup_weight(k, 0.4))(jax.random.split(KEY, 4000)))
    beta = scipy.stats.beta(0.4, 0.4)
    result = scipy.stats.kstest(weights, lambda x: np.clip(beta.cdf(x) - beta.cdf(1 - x), 0, 1))
    assert result.pvalue > 1e-3
    half = np.asarray(jax.vmap(lambda k: mix.mixup_weight(k, 0.4, 0.5))(jax.random.split(KEY, 4000)))
    assert abs((half == 1).mean() - 0.5) < 0.04


def test_partners_are_a_permutation_without_fixed_points():
    config = configs.defaults("resnet").augment
    config.mixup_alpha = 0.3
    for key in jax.random.split(KEY, 10):
        _, partners = compose.mixup_pairs(config, key, jnp.arange(9), 9)
        assert sorted(np.asarray(partners)) == list(range(9))
        assert (np.asarray(partners) != np.arange(9)).all()


def test_partners_are_one_cycle_in_a_random_order():
    partners = np.asarray(jax.vmap(lambda k: draws.random_partners(k, 5))(jax.random.split(KEY, 6000)))
    place = np.zeros(6000, np.int64)
    for step in range(1, 6):
        place = partners[np.arange(6000), place]
        assert ((place == 0) == (step == 5)).all()
    # (5 − 1)! = 24 cycles with equal probability.
    counts = np.unique(partners, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and scipy.stats.chisquare(counts).pvalue > 1e-3


def test_defaults_are_the_identity():
    config = configs.defaults("resnet").augment
    audio = jnp.asarray(X.reshape(2, 4000))
    np.testing.assert_array_equal(compose.augment_waveforms(config, KEY, jnp.arange(2), audio, 16_000), audio)
    features = audio.reshape(2, 100, 40)
    np.testing.assert_array_equal(compose.augment_spectrograms(config, KEY, jnp.arange(2), features), features)


@pytest.mark.parametrize("draw", ["batch", "example"])
def test_an_example_depends_on_its_position_and_not_on_its_neighbours(draw):
    config = configs.defaults("resnet").augment
    config.update(roll=1.0, crop_s=0.1, speed_octaves=0.3, gain_db=6.0, noise=0.2)
    config.update(resample=(0.8, 1.25), resample_draw=draw, resample_probability=0.9, flip_sign=0.5, equalizer_bands=2)
    config.update(wave_mask=0.1, color_noise=("pink", "blue"))
    audio = jnp.asarray(X.reshape(4, 2000))
    augment = jax.jit(lambda audio, positions: compose.augment_waveforms(config, KEY, positions, audio, 16_000))
    whole = augment(audio, jnp.arange(4))
    half = augment(jnp.concatenate([audio[2:], audio[2:]]), jnp.array([2, 3, 8, 9]))[:2]
    np.testing.assert_allclose(whole[2:], half, rtol=1e-5, atol=1e-5)


def test_an_option_does_not_change_what_the_others_draw():
    config = configs.defaults("resnet").augment
    config.update(roll=1.0, crop_s=0.1, gain_db=6.0)
    audio = jnp.asarray(X.reshape(4, 2000))

    def augment():
        return jax.jit(lambda: compose.augment_waveforms(config, KEY, jnp.arange(4), audio, 16_000))()

    before = augment()
    config.update(flip_sign=1.0, wave_mask=0.1, wave_mask_probability=0.0)
    np.testing.assert_array_equal(augment(), -before)


five_seconds_of_noise = jax.jit(lambda exponent: waveform.colored_noise(KEY, 80_000, exponent, 16_000))


@pytest.mark.parametrize("color", list(waveform.NOISE_COLORS))
def test_the_spectrum_of_noise_has_the_exponent_of_its_colour(color):
    exponent = {"white": 0, "pink": -1, "red": -2, "blue": 1, "violet": 2}[color]
    noise = np.asarray(five_seconds_of_noise(jnp.float32(waveform.NOISE_COLORS[color])))
    assert np.mean(np.square(noise)) == pytest.approx(1.0, abs=1e-4)
    frequencies, density = scipy.signal.welch(noise, 16_000, nperseg=4096)
    inside = (frequencies > 50) & (frequencies < 7000)
    slope = np.polyfit(np.log(frequencies[inside]), np.log(density[inside]), 1)[0]
    assert slope == pytest.approx(exponent, abs=0.1)
    if color == "white":
        np.testing.assert_allclose(np.quantile(noise, [0.16, 0.5, 0.84]), [-1, 0, 1], atol=0.03)


def test_colored_noise_has_the_drawn_ratio():
    def added(key):
        return waveform.add_colored_noise(key, X, 16_000, ("pink", "violet"), (5.0, 15.0), 0.7) - X

    noise = np.asarray(jax.jit(jax.vmap(added))(jax.random.split(KEY, 200)))
    level = np.sqrt(np.mean(np.square(noise), axis=1))
    assert 0.2 < np.mean(level == 0) < 0.4
    noise, level = noise[level > 0], level[level > 0]
    ratios = 20 * np.log10(np.sqrt(np.mean(X**2)) / level)
    assert 5 - 0.01 <= ratios.min() < 6 and 14 < ratios.max() <= 15.01
    # Of violet noise, nearly all is above a quarter of the sample rate; of pink noise, little is.
    power = np.square(np.abs(np.fft.rfft(noise)))
    high = power[:, 2000:].sum(axis=1) / power.sum(axis=1)
    assert ((high > 0.8) | (high < 0.2)).all() and 0.3 < np.mean(high > 0.8) < 0.7
    assert not waveform.add_colored_noise(KEY, jnp.zeros(100), 16_000, ("red",), (0.0, 0.0), 1.0).any()


def test_a_wave_mask_is_one_part_of_the_given_length():
    result = np.asarray(jax.jit(jax.vmap(lambda k: waveform.mask(k, X, 0.05, 0.6)))(jax.random.split(KEY, 200)))
    changed = result != X
    masked = changed.any(axis=1)
    assert 0.5 < masked.mean() < 0.7
    starts = set()
    for row, places in zip(result[masked], changed[masked], strict=True):
        inside = np.flatnonzero(places)
        assert len(inside) == 400 and inside[-1] - inside[0] == 399
        assert 5e-7 < row[inside].std() < 2e-6 and len(set(row[inside])) > 350
        starts.add(inside[0])
    assert min(starts) < 500 and max(starts) > 7000


def test_the_sign_changes_with_its_probability():
    result = np.asarray(jax.jit(jax.vmap(lambda k: waveform.flip_sign(k, X, 0.3)))(jax.random.split(KEY, 400)))
    flipped = (result == -X).all(axis=1)
    assert ((result == X).all(axis=1) | flipped).all() and 0.2 < flipped.mean() < 0.4


@pytest.mark.parametrize("kind", ["step", "linear"])
def test_filter_gains_are_those_of_a_loop_over_bands(kind):
    """The bands are recovered from the gains, and the gains computed again as in the published code."""
    gains = jax.jit(lambda key: spectrogram.filter_gains(key, 64, 6.0, (3, 5), 6, kind))
    counts = set()
    for key in jax.random.split(KEY, 40):
        result = np.asarray(gains(key))
        assert np.abs(result).max() <= 6
        if kind == "step":
            edges = [0, *(np.flatnonzero(np.diff(result)) + 1), 64]
            expected = np.repeat(result[edges[:-1]], np.diff(edges))
        else:  # the first gain of a band equals the last of the band before
            edges = [0, *(np.flatnonzero(np.abs(np.diff(result)) < 1e-6) + 1), 64]
            ends = [result[0], *result[[edge - 1 for edge in edges[1:]]]]
            expected = np.concatenate(
                [np.linspace(a, b, n) for a, b, n in zip(ends[:-1], ends[1:], np.diff(edges), strict=True)]
            )
        np.testing.assert_allclose(result, expected, atol=1e-5)
        assert np.diff(edges).min() >= 6
        counts.add(len(edges) - 1)
    assert counts == {3, 4, 5}


@pytest.mark.parametrize("name", ["log_mel", "efficientat_mel", "kaldi_fbank", "magnitudes"])
def test_a_decibel_of_features_is_a_decibel_of_sound(name):
    settings = frontends.defaults("kaldi_fbank" if name == "magnitudes" else name)
    settings |= {"power": False} if name == "magnitudes" else {}
    frontend = frontends.build(settings, 16_000 if "fbank" in settings["name"] else 32_000)
    loud = 100.0 * X
    features = jax.jit(frontend)
    difference = features(loud * 10.0 ** (7.0 / 20.0)) - features(loud)
    # Empty triangles, at the lowest frequencies, stay at the floor.
    np.testing.assert_allclose(np.median(difference), 7.0 * frontend.decibel, rtol=1e-3)


def test_mixstyle_equals_a_loop_over_bins():
    rng = np.random.default_rng(2)
    x, other = rng.normal(rng.normal(size=(2, 1, 9)), rng.uniform(0.5, 2, (2, 1, 9)), (2, 40, 9)).astype(np.float32)
    expected = np.empty_like(x)
    for b in range(9):
        mean, deviation = 0.3 * x[:, b].mean() + 0.7 * other[:, b].mean(), 0.3 * x[:, b].std() + 0.7 * other[:, b].std()
        expected[:, b] = (x[:, b] - x[:, b].mean()) / x[:, b].std() * deviation + mean
    mix_style = jax.jit(spectrogram.exchange_statistics)
    statistics = [spectrogram.frequency_statistics(jnp.asarray(s)) for s in (x, other)]
    result = mix_style(jnp.float32(0.3), x, *statistics, 4.0)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    # Of features with another scale and offset, the result has that scale and offset.
    scaled = [spectrogram.frequency_statistics(jnp.asarray(s / 2 + 3)) for s in (x, other)]
    np.testing.assert_allclose(mix_style(jnp.float32(0.3), x / 2 + 3, *scaled, 8.0), result / 2 + 3, atol=1e-5)
    # Digital silence has no deviation.
    silent = jnp.zeros((40, 9))
    statistics[0] = spectrogram.frequency_statistics(silent)
    result = mix_style(jnp.float32(0.3), silent, *statistics, 4.0)
    np.testing.assert_allclose(result, np.broadcast_to(0.7 * other.mean(0), (40, 9)), atol=1e-5)


def test_mixstyle_takes_the_partners_from_the_global_batch():
    """Of eight examples on four devices, the changed ones have means between those of two examples."""
    config = configs.defaults("resnet").augment
    config.update(freq_mixstyle_alpha=0.4, freq_mixstyle_probability=0.6)
    features = np.random.default_rng(3).normal(2, 3, (8, 20, 9)).astype(np.float32)
    frontend = frontends.build(frontends.defaults("log_mel"), 32_000)

    def change(x):
        return compose.augment_spectrograms(config, KEY, devices.example_positions(len(x)), x, frontend)

    result = jax.jit(jax.vmap(change, axis_name=devices.AXIS))(features.reshape(4, 2, 20, 9)).reshape(8, 20, 9)
    changed = np.flatnonzero((result != features).any(axis=(1, 2)))
    assert 2 <= len(changed) <= 7
    means, own = np.asarray(result).mean(1), features.mean(1)
    elsewhere = 0
    for row in changed:
        errors = np.full(8, np.inf)
        for other in set(range(8)) - {row}:
            direction = own[other] - own[row]
            share = (means[row] - own[row]) @ direction / (direction @ direction)
            errors[other] = np.abs(own[row] + share * direction - means[row]).max()
        assert errors.min() < 1e-4
        elsewhere += errors.argmin() // 2 != row // 2
    assert elsewhere
