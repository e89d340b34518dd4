"""Log-mel features against plain numpy, what padding and autocast may not do to them, statistics, SpecAugment."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.features import LOG_FLOOR, FeatureStatistics, LogMel, SpecAugment, frame_count, mask_padding
from sru_asr.model import ModelConfig, Recognizer
from sru_asr.text import CharTokenizer

FEATURES = LogMel(80)


def mel_of(hz):
    """Slaney's scale: linear up to 1000 Hz, 15 mel there, then 27 mel for every factor of 6.4."""
    return np.where(hz < 1000, hz * 15 / 1000, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def hz_of(mel):
    return np.where(mel < 15, mel * 1000 / 15, 1000 * 6.4 ** ((mel - 15) / 27))


def expected_log_mel(samples, n_mels, floor):
    """One frame after the other, in float64: (frames, n_mels). Each ends where its hop does."""
    samples = np.concatenate([np.zeros(240), samples])
    edges = hz_of(np.linspace(mel_of(20.0), mel_of(7600.0), n_mels + 2))
    bins = np.arange(257) * 16_000 / 512
    filters = []
    for low, middle, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
        triangle = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clip(min=0)
        filters.append(triangle * 2 / (high - low))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = []
    for start in range(0, len(samples) - 400 + 1, 160):
        power = np.abs(np.fft.rfft(samples[start : start + 400] * window, 512)) ** 2
        frames.append(np.log(np.maximum(np.array(filters) @ power, floor)))
    return np.array(frames)


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SECOND = np.arange(16_000) / 16_000
SIGNALS = {
    "noise": noise(16_000).numpy(),
    "tones": 0.3 * np.sin(2 * np.pi * 440 * SECOND) + 0.01 * np.sin(2 * np.pi * 5_000 * SECOND),
    "chirp": 0.5 * np.sin(2 * np.pi * 3_500 * SECOND**2),
    "click": np.eye(1, 16_000, 7_919)[0],
    "offset": np.full(16_000, 0.5),
    "silence": np.zeros(16_000),
}


@pytest.mark.parametrize(("n_mels", "floor"), [(40, 1e-9), (80, 1e-9), (80, 1e-6)])
@pytest.mark.parametrize("name", SIGNALS)
def test_log_mel_is_what_numpy_computes(name, n_mels, floor):
    samples = SIGNALS[name].astype(np.float32)
    found = LogMel(n_mels, floor).log_mel(torch.from_numpy(samples)[None])[0]
    expected = torch.from_numpy(expected_log_mel(samples.astype(np.float64), n_mels, floor))
    assert found.dtype == torch.float32
    # Where a band holds little but the rounding of float32, powers still agree and logarithms need not.
    torch.testing.assert_close(found.double().exp(), expected.exp(), rtol=1e-4, atol=1e-6)
    loud = expected > -6
    torch.testing.assert_close(found.double()[loud], expected[loud], rtol=0, atol=1e-3)


def test_silence_is_the_floor_which_quiet_speech_is_above():
    """The least noise that 16 bits have is above it; a quarter of AN4's powers were below the floor of 1e-6 once."""
    # Powers of the narrow bands are distributed exponentially about 3e-9: some 28 % of those are below all the same.
    steps = torch.randint(-1, 2, (1, 16_000), generator=torch.Generator().manual_seed(0)) / 32768
    assert (FEATURES.log_mel(steps).exp() > LOG_FLOOR).float().mean() > 0.7
    torch.testing.assert_close(FEATURES.log_mel(torch.zeros(1, 400)), torch.full((1, 2, 80), LOG_FLOOR).log())


def test_frames_are_counted_as_they_are_made():
    """Every length up to 2000, alone and behind others in one tensor."""
    lengths = torch.arange(2_001)
    counts = frame_count(lengths)
    assert counts.tolist() == [len(range(160, n + 1, 160)) for n in range(2_001)]
    waveform = noise(1, 2_000)
    for n, count in enumerate(counts.tolist()):
        features, frames = FEATURES(waveform[:, :n], lengths[n : n + 1])
        assert features.shape == (1, count, 80)
        assert frames.tolist() == [count]


@pytest.mark.parametrize("n_samples", [0, 159, 160, 1_000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_features_are_float32_whatever_comes(dtype, n_samples):
    features, _ = FEATURES(noise(2, n_samples).to(dtype), torch.tensor([n_samples, n_samples // 2]))
    assert features.dtype == torch.float32


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 3_000), min_size=1, max_size=5),
    extra=st.integers(0, 1_000),
    seed=st.integers(0, 1_000),
)
def test_an_utterance_has_the_features_it_has_alone(lengths, extra, seed):
    """Whatever its neighbours, and whatever lies behind it."""
    features = LogMel(80)
    features.mean.fill_(-3.0)
    features.scale.fill_(0.5)
    batch = noise(len(lengths), max(lengths) + extra, seed=seed)
    found, frames = features(batch, torch.tensor(lengths))
    for row, n_samples, found_row, n_frames in zip(batch, lengths, found, frames.tolist(), strict=True):
        alone, _ = features(row[None, :n_samples], torch.tensor([n_samples]))
        assert alone.shape[1] == n_frames
        torch.testing.assert_close(found_row[:n_frames], alone[0], rtol=0, atol=1e-5)
        assert not found_row[n_frames:].any()


def test_mask_padding_takes_any_number_of_dimensions():
    lengths = torch.tensor([0, 2, 5])
    for shape in [(3, 5), (3, 5, 2), (3, 5, 2, 4)]:
        masked = mask_padding(torch.ones(shape), lengths)
        assert masked.reshape(3, 5, -1).amin(2).tolist() == [[0] * 5, [1, 1, 0, 0, 0], [1] * 5]
        assert masked.sum() == 7 * masked[0, 0].numel()


def test_autocast_does_not_degrade_features():
    waveform, lengths = noise(2, 8_000), torch.tensor([8_000, 6_000])
    expected, _ = FEATURES(waveform, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = FEATURES(waveform, lengths)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


# Statistics


def test_statistics_are_those_of_all_frames_and_of_no_padding():
    lengths = [5, 1, 9, 0, 3]
    batch = 3 * torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(0)) - 7
    statistics = FeatureStatistics(4)
    statistics.add(batch[:2], torch.tensor(lengths[:2]))
    statistics.add(batch[2:], torch.tensor(lengths[2:]))
    features = LogMel(4)
    statistics.write_to(features)
    frames = np.concatenate([row[:n].numpy() for row, n in zip(batch.double(), lengths, strict=True)])
    assert len(frames) == statistics.count
    np.testing.assert_allclose(features.mean.numpy(), frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(features.scale.numpy(), 1 / frames.std(0), rtol=1e-6)


def test_statistics_make_features_of_mean_zero_and_deviation_one():
    waveform = noise(3, 20_000) * torch.logspace(-2, 0, 20_000)
    features = LogMel(80)
    statistics = FeatureStatistics(80)
    statistics.add(features.log_mel(waveform), frame_count(torch.full((3,), 20_000)))
    statistics.write_to(features)
    normalised = features(waveform, torch.full((3,), 20_000))[0].flatten(0, 1)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(80), rtol=0, atol=1e-4)
    torch.testing.assert_close(normalised.std(0, correction=0), torch.ones(80), rtol=0, atol=1e-4)


def test_a_band_that_never_changes_is_not_blown_up():
    """Where FSDD, of 8 kHz, had nothing, noise was a hundred deviations."""
    statistics = FeatureStatistics(4)
    statistics.add(torch.full((1, 10, 4), -13.8), torch.tensor([10]))
    features = LogMel(4)
    statistics.write_to(features)
    torch.testing.assert_close(features.scale, torch.ones(4))


def test_statistics_of_nothing_are_an_error():
    statistics = FeatureStatistics(4)
    statistics.add(torch.zeros(2, 3, 4), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="found no frames"):
        statistics.write_to(LogMel(4))


# SpecAugment


def runs(mask):
    """How long the stretches of True are."""
    edges = np.diff(np.concatenate([[0], np.asarray(mask, dtype=int), [0]]))
    return (np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)).tolist()


def masked_bands(features):
    return [(row == 0).all(0).numpy() for row in features]


def masked_frames(features):
    return [(row == 0).all(1).numpy() for row in features]


def test_spec_augment_is_off_in_evaluation():
    features = torch.ones(2, 100, 80)
    assert SpecAugment().eval()(features, torch.tensor([100, 50])) is features


def test_without_masks_nothing_is_masked():
    """A share of 0 used to leave one mask of time."""
    features = torch.ones(20, 300, 80)
    assert torch.equal(SpecAugment(n_frequency=0, time_share=0)(features, torch.full((20,), 300)), features)


def test_spec_augment_leaves_its_input_alone():
    features = torch.ones(2, 100, 80)
    assert not torch.equal(SpecAugment()(features, torch.tensor([100, 50])), features)
    assert (features == 1).all()


def test_spec_augment_repeats_itself_from_a_seed():
    features, lengths = torch.ones(4, 300, 80), torch.tensor([300, 200, 100, 50])
    torch.manual_seed(0)
    first, second = SpecAugment()(features, lengths), SpecAugment()(features, lengths)
    torch.manual_seed(0)
    assert torch.equal(SpecAugment()(features, lengths), first)
    assert not torch.equal(first, second)


def test_one_frequency_mask_has_every_width_up_to_the_greatest_and_lies_anywhere():
    torch.manual_seed(0)
    augment = SpecAugment(n_frequency=1, frequency_width=6, time_share=0.8, time_width=0)
    masks = masked_bands(augment(torch.ones(2_000, 3, 16), torch.full((2_000,), 3)))
    assert {tuple(runs(mask)) for mask in masks} == {(), (1,), (2,), (3,), (4,), (5,), (6,)}
    assert np.any(masks, axis=0).all()
    # Every width comes equally often.
    counts = np.bincount([mask.sum() for mask in masks], minlength=7)
    assert counts.min() > 200


def test_one_time_mask_lies_anywhere_within_its_utterance_and_not_behind():
    torch.manual_seed(0)
    lengths = torch.full((2_000,), 40)
    lengths[1_000:] = 12
    augment = SpecAugment(n_frequency=0, time_share=0.8, time_width=10)
    masks = np.array(masked_frames(augment(torch.ones(2_000, 50, 4), lengths)))
    # A fifth of the utterance at most.
    assert {tuple(runs(mask)) for mask in masks[:1_000]} == {(), *((n,) for n in range(1, 9))}
    assert {tuple(runs(mask)) for mask in masks[1_000:]} == {(), (1,), (2,)}
    assert np.any(masks[:1_000], axis=0).tolist() == [True] * 40 + [False] * 10
    assert np.any(masks[1_000:], axis=0).tolist() == [True] * 12 + [False] * 38


def test_an_utterance_gets_as_many_time_masks_as_its_length_earns():
    torch.manual_seed(0)
    lengths = torch.tensor([1_000, 500, 124, 1] * 50)
    augment = SpecAugment(n_frequency=0, time_share=0.8, time_width=5)
    most = np.zeros(4, dtype=int)
    for i, mask in enumerate(masked_frames(augment(torch.ones(200, 1_000, 1), lengths))):
        assert mask.sum() <= 5 * (int(0.8 * lengths[i] / 100) + 1)
        most[i % 4] = max(most[i % 4], len(runs(mask)))
    # 0.8 a second and one: masks of width 0 and those that meet make fewer, of 50 utterances the best comes close.
    assert (most <= [9, 5, 1, 0]).all()
    assert (most >= [7, 4, 1, 0]).all()


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    extra=st.integers(0, 10),
    n_mels=st.integers(1, 20),
    n_frequency=st.integers(0, 3),
    frequency_width=st.integers(0, 30),
    time_share=st.floats(0, 5),
    time_width=st.integers(0, 100),
    seed=st.integers(0, 1_000),
)
def test_spec_augment_only_ever_puts_the_mean_in(
    lengths, extra, n_mels, n_frequency, frequency_width, time_share, time_width, seed
):
    """Also where masks are wider than the utterance, or it has no frames; in whole bands and whole frames."""
    torch.manual_seed(seed)
    features = mask_padding(torch.randn(len(lengths), max(lengths) + extra, n_mels), torch.tensor(lengths))
    augment = SpecAugment(n_frequency, frequency_width, time_share, time_width)
    found = augment(features, torch.tensor(lengths))
    assert found.shape == features.shape
    changed = found != features
    assert (found[changed] == 0).all()
    for row, length in zip(changed, lengths, strict=True):
        bands, frames = row[:length].all(0), row[:length].all(1)
        assert torch.equal(row[:length], bands[None] | frames[:, None])
        assert not row[length:].any()
        assert frames.all() or bands.sum() <= n_frequency * frequency_width


def test_a_recogniser_can_be_built_of_shapes_alone():
    with torch.device("meta"):
        model = Recognizer(ModelConfig(), CharTokenizer())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.features.mean.device.type == "meta"
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e6


def test_masks_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"must not be negative.*time_share=-1"):
        SpecAugment(time_share=-1.0)


@pytest.mark.parametrize("behind", [math.nan, math.inf, -math.inf, 1e30])
def test_what_lies_behind_an_end_is_not_heard(behind):
    """What is no number made one of the last feature before it, where the transform reaches beyond its window."""
    features = LogMel().eval()
    waveform, lengths = torch.randn(2, 16_000) * 0.1, torch.tensor([16_000, 8_000])
    expected, _ = features(waveform.masked_fill(torch.arange(16_000) >= lengths[:, None], 0.0), lengths)
    found, _ = features(waveform.masked_fill(torch.arange(16_000) >= lengths[:, None], behind), lengths)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("lengths", [[16_000, 8_000], [-1], 5])
def test_lengths_that_are_not_those_of_the_waveforms_are_refused(lengths):
    """One waveform with several lengths became several utterances."""
    with pytest.raises(ValueError, match=r"expected (a length for each of 1 waveforms|lengths from 0)"):
        LogMel()(torch.zeros(1, 16_000), torch.tensor(lengths))
