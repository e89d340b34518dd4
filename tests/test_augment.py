"""Augmentation: what each change does to a signal, measured; that it is the same whenever it is asked for again."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sru_asr.augment import BAND_HERTZ, AugmentConfig, Augmented

NONE = AugmentConfig.none()
CLIP = replace(NONE, clip=1.0, clip_words=("SIX",))


def signal(samples=16_000, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def changed(waveform, key="key", **options):
    return Augmented(replace(NONE, **options), key)(waveform)


def decibels(ratio):
    return 10 * math.log10(ratio)


def power(waveform):
    return float(waveform.double().square().mean())


def test_by_default_something_happens_and_none_leaves_audio_as_it_is():
    waveform = signal()
    assert torch.equal(changed(waveform), waveform)
    assert not torch.equal(Augmented(AugmentConfig(), "key")(waveform)[:16_000], waveform)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40_000), st.text(max_size=5), st.floats(0, 1), st.integers(0, 100))
@example(0, "", 0.5, 0)
@example(1, "", 1.0, 0)
def test_whatever_comes_out_is_finite_speech_of_about_the_same_length(samples, key, probability, seed):
    config = AugmentConfig(
        noise=probability, reverb=probability, channel=probability, band=probability, trim=probability
    )
    waveform = signal(samples, seed)
    found = Augmented(config, key)(waveform, "TWO WORDS")
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert samples / 2 <= len(found) <= samples + 2 * config.padding_seconds * 16_000
    again = Augmented(config, key)(waveform, "TWO WORDS")
    assert torch.equal(found, again)


def test_it_does_not_depend_on_the_number_of_threads():
    """Loader processes have one, the training itself has all."""
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            config = AugmentConfig(noise=1, reverb=1, channel=1, band=1)
            found.append([Augmented(config, str(i))(signal(30_000, i)) for i in range(5)])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


def test_another_key_is_another_change():
    waveform = signal()
    found = [Augmented(AugmentConfig(noise=1.0), key)(waveform)[:1_000] for key in ("0 1 a", "0 2 a", "0 1 b", "1 1 a")]
    assert len({tuple(row.tolist()) for row in found}) == 4


def test_changing_it_leaves_what_came_in_alone():
    waveform = signal()
    before = waveform.clone()
    Augmented(AugmentConfig(noise=1, reverb=1, channel=1, band=1), "key")(waveform)
    assert torch.equal(waveform, before)


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
@pytest.mark.parametrize("key", ["a", "b", "c", "d"])
def test_noise_is_as_loud_as_its_ratio_says(snr, key):
    waveform = signal()
    noise = changed(waveform, key, noise=1.0, snr_db=(snr, snr)) - waveform
    assert decibels(power(waveform) / power(noise)) == pytest.approx(snr, abs=0.1)


def test_trimming_does_not_make_noise_quieter():
    """The level of a word is that of what is left of it."""
    word = torch.cat([torch.zeros(4_000), signal(8_000), torch.zeros(3_000)])
    found = changed(word, trim=1, noise=1, snr_db=(10.0, 10.0))
    assert len(found) == 8_000
    clean = word[4_000:12_000]
    assert decibels(power(clean) / power(found - clean)) == pytest.approx(10, abs=0.2)


def test_a_click_does_not_pass_for_the_word():
    waveform = 0.01 * signal()
    waveform[200:300] = 1
    assert torch.equal(changed(waveform, trim=1), waveform)


def word_like_six(seconds_of_vowel=0.12):
    """A low tone between two louder hisses."""
    time = torch.arange(int(seconds_of_vowel * 16_000)) / 16_000
    vowel = 0.1 * torch.sin(2 * math.pi * 500 * time)
    spectrum = torch.fft.rfft(signal(3_200, seed=1))
    spectrum[: int(len(spectrum) * 5 / 8)] = 0  # from 5 kHz on
    hiss = 5 * torch.fft.irfft(spectrum)
    return hiss, vowel


@pytest.mark.parametrize("key", ["a", "b", "c", "d", "e", "f"])
def test_of_one_word_clipping_leaves_the_vowel_however_loud_its_hisses_are(key):
    hiss, vowel = word_like_six()
    assert power(hiss) > power(vowel)
    word = torch.cat([hiss, vowel, hiss])
    found = Augmented(CLIP, key)(word, "SIX")
    assert abs(len(found) - len(vowel)) <= 3 * 160
    start = next(i for i in range(0, len(word), 160) if torch.equal(word[i : i + len(found)], found))
    assert abs(start - len(hiss)) <= 2 * 160
    for text in ("", "SIX SIX"):
        assert torch.equal(Augmented(CLIP, key)(word, text), word)
    for clip_words, clipped in ((("SIX", "ONE"), True), (("six",), True), (("ONE",), False), ((), False)):
        again = Augmented(replace(CLIP, clip_words=clip_words), key)(word, "SIX")
        assert torch.equal(again, found if clipped else word)


def test_clipping_leaves_at_least_a_tenth_of_a_second():
    hiss, vowel = word_like_six(0.02)
    found = [len(Augmented(CLIP, str(i))(torch.cat([hiss, vowel, hiss]), "SIX")) for i in range(30)]
    assert min(found) == 1_600
    short = signal(1_500)
    assert torch.equal(Augmented(CLIP, "key")(short, "SIX"), short)
    silence = torch.zeros(16_000)
    assert torch.equal(Augmented(CLIP, "key")(silence, "SIX"), silence)


@pytest.mark.parametrize("at", [0, 5, 60, 95, 99])
def test_clipping_to_a_click_leaves_a_tenth_of_a_second_too(at):
    word = 0.001 * signal()[:16_000]
    word[160 * at + 40 : 160 * at + 120] += 1
    found = Augmented(CLIP, "key")(word, "SIX")
    assert len(found) == 1_600
    assert found.max() > 0.5


def test_what_is_joined_has_pauses_between_it():
    parts = [signal(3_000, 1), signal(5_000, 2), signal(2_000, 3)]
    means = []
    for key in map(str, range(40)):
        found = Augmented(replace(NONE, pause_seconds=0.4), key).joined([(part, "A B") for part in parts])
        assert torch.equal(found[:3_000], parts[0])
        assert torch.equal(found[-2_000:], parts[2])
        (where,) = (found == parts[1][0]).nonzero(as_tuple=True)
        assert torch.equal(found[where[0] : where[0] + 5_000], parts[1])
        assert not found[3_000 : where[0]].any()
        assert not found[where[0] + 5_000 : -2_000].any()
        means.append((len(found) - 10_000) / 2 / 16_000)
    assert 0.25 < sum(means) / len(means) < 0.55
    assert max(means) > 0.6


def test_noise_of_what_is_joined_does_not_depend_on_its_pauses():
    parts = [(signal(8_000, 1), ""), (signal(8_000, 2), "")]
    quiet, noisy = (
        Augmented(replace(NONE, noise=noise, snr_db=(10.0, 10.0), pause_seconds=1.0), "key").joined(parts)
        for noise in (0.0, 1.0)
    )
    assert decibels(power(torch.cat([part for part, _ in parts])) / power(noisy - quiet)) == pytest.approx(10, abs=0.2)


def test_padding_does_not_make_noise_quieter():
    """A word of 0.14 s used to get 2 to 6 dB less of it, as its level was taken with the silence around it."""
    for key in map(str, range(20)):
        found = changed(signal(2_240), key, noise=1.0, snr_db=(10.0, 10.0), padding_seconds=0.2)
        silent = changed(signal(2_240), key, padding_seconds=0.2)
        assert decibels(power(signal(2_240)) / power(found - silent)) == pytest.approx(10, abs=0.1)


def test_noises_differ_in_colour():
    tilts = []
    for key in map(str, range(30)):
        noise = changed(signal(), key, noise=1.0, snr_db=(0, 0)) - signal()
        spectrum = torch.fft.rfft(noise).abs().square()
        tilts.append(decibels(spectrum[500:1_000].mean() / spectrum[4_000:8_000].mean()))
    assert min(tilts) < 3
    assert max(tilts) > 12


def test_a_room_keeps_the_direct_sound_where_it_was_and_adds_a_decaying_tail():
    click = torch.zeros(16_000)
    click[1_000] = 1
    tails = []
    for key in map(str, range(20)):
        found = changed(click, key, reverb=1.0, reverb_seconds=0.5)
        assert int(found.abs().argmax()) == 1_000
        assert float(found[:1_000].abs().max()) < 1e-5  # nothing before it
        assert power(found) == pytest.approx(power(click), rel=1e-3)
        early, late = found[1_001:3_000], found[1_000 + 8_000 :]
        assert power(late) < 1e-4 * power(early) + 1e-12  # all is over after the reverberation time
        tails.append(power(early))
    assert min(tails) > 0


def test_a_band_ends():
    for key in map(str, range(20)):
        spectrum = torch.fft.rfft(changed(signal(), key, band=1.0).double()).abs().square()  # bins of 1 Hz
        # In the highest octave that is left of the spectrum, a limit of at most 7 kHz takes away something.
        assert decibels(spectrum[7_900:].mean() / spectrum[:3_000].mean()) < -8
        assert decibels(spectrum[2_000 : BAND_HERTZ[0]].mean() / spectrum[:2_000].mean()) == pytest.approx(0, abs=1)


def test_some_bands_end_as_where_8_khz_were_sampled():
    """Else only FSDD would sound so, and a model would expect digits on the telephone."""
    walls = 0
    for key in map(str, range(60)):
        spectrum = torch.fft.rfft(torch.hann_window(16_000) * changed(signal(), key, band=1.0).double()).abs().square()
        walls += decibels(spectrum[4_200:].mean() / spectrum[:3_000].mean()) < -60
    assert 5 < walls < 55


def test_a_channel_bends_the_spectrum_within_its_limits():
    before = torch.fft.rfft(signal(64_000)).abs()
    for key in map(str, range(10)):
        after = torch.fft.rfft(changed(signal(64_000), key, channel=1.0, channel_db=6.0)).abs()
        gains = 20 * torch.log10(after[400:30_000] / before[400:30_000])
        smooth = gains.unfold(0, 200, 200).median(1).values
        assert 0.5 < float(smooth.max() - smooth.min()) <= 12.1


@pytest.mark.parametrize("recorded", [0.001, 0.1])
def test_a_level_says_nothing_about_how_loud_the_recording_was(recorded):
    """The shipped model once took the level of FSDD for a sign that a digit is said, and of AN4 for a letter."""
    waveform = recorded * signal()
    found = [changed(waveform, key, level=1.0, level_db=(-40.0, -20.0)) for key in map(str, range(100))]
    levels = [decibels(power(each)) for each in found]
    assert -40 <= min(levels) < -37
    assert -23 < max(levels) <= -20
    assert torch.allclose(found[0] / found[0].std(), waveform / waveform.std(), atol=1e-5)


@pytest.mark.parametrize("recorded", [0.003, 0.9])
def test_what_is_joined_is_about_as_loud_as_the_rest_however_loud_it_was_recorded(recorded):
    """Digits used to be louder than the rest of what they were joined with, and what is quiet was heard as letters."""
    config, apart = replace(NONE, level=1.0, level_db=(-30.0, -30.0), pause_seconds=0.0), []
    for key in map(str, range(30)):
        found = Augmented(config, key).joined([(signal(8_000, 1) * recorded, "ONE"), (signal(8_000, 2), "A B")])
        apart.append(decibels(power(found[:8_000]) / power(found[8_000:])))
        assert decibels(power(found)) == pytest.approx(-30, abs=0.1)
    assert max(map(abs, apart)) < 8.1
    assert abs(sum(apart) / len(apart)) < 2
    assert max(apart) - min(apart) > 5


def test_a_level_is_that_of_speech_and_not_of_the_pauses_between():
    part, config = (signal(), "A"), replace(NONE, level=1.0, level_db=(-30.0, -30.0), pause_seconds=2.0)
    found = Augmented(config, "key").joined([part, part])
    assert len(found) > 2 * len(part[0])
    assert decibels(power(found[found != 0])) == pytest.approx(-30, abs=0.1)


def test_where_nothing_is_said_no_noise_is_made_of_it():
    silence = torch.full((1_000,), 2.0**-15)
    assert torch.equal(changed(silence, level=1.0), silence)


def test_padding_is_silent_and_on_both_sides():
    waveform = torch.ones(1_000)
    edges = []
    for key in map(str, range(50)):
        found = changed(waveform, key, padding_seconds=0.1).nonzero().flatten()
        assert len(found) == 1_000
        length = len(changed(waveform, key, padding_seconds=0.1))
        edges.append((int(found[0]), length - 1 - int(found[-1])))
    before, after = zip(*edges, strict=True)
    assert max(before) <= 1_600
    assert max(after) <= 1_600
    assert max(before) > 1_200
    assert max(after) > 1_200


def test_trimming_cuts_what_is_quiet_at_the_ends_alone():
    """By 60 dB always, by 30 dB for some keys, by 10 dB never; the pause in the middle stays."""
    loud, faint = torch.full((1600,), 0.5), 0.5 * 10 ** (-60 / 20)
    pause, quiet, medium = (torch.full((1600,), 0.5 * 10 ** (-level / 20)) for level in (60, 30, 10))
    ends = torch.full((800,), faint)
    waveform = torch.cat([ends, quiet, medium, loud, pause, loud, quiet, ends])
    core, more = waveform[2400:8800], waveform[800:10_400]
    found = [changed(waveform, str(i), trim=1.0) for i in range(200)]
    lengths = {len(one) for one in found}
    assert lengths == {len(core), len(more)}
    for one in found:
        assert torch.equal(one, core if len(one) == len(core) else more)
    share = sum(len(one) == len(core) for one in found) / 200
    assert share == pytest.approx((30 - 18) / (40 - 18), abs=0.12)
    kept = sum(len(changed(waveform, str(i), trim=0.3)) == len(waveform) for i in range(500))
    assert kept == pytest.approx(350, abs=45)
    for nothing in (torch.zeros(0), torch.zeros(100), torch.zeros(4000)):
        assert torch.equal(changed(nothing, trim=1.0), nothing)


def test_where_nothing_is_said_nothing_is_left_of_the_speech():
    for key in map(str, range(10)):
        change = Augmented(replace(NONE, no_speech=1.0), key)
        assert not change.has_speech
        found = change(signal(seed=1))
        assert torch.equal(found, Augmented(replace(NONE, no_speech=1.0), key)(signal(seed=2)))
        assert len(found) == 16_000
    levels = [decibels(power(Augmented(replace(NONE, no_speech=1.0), str(i))(signal()))) for i in range(50)]
    assert min(levels) < -70
    assert max(levels) > -40


def test_few_utterances_lose_their_speech():
    lost = sum(not Augmented(AugmentConfig(no_speech=0.1), str(i)).has_speech for i in range(3_000))
    assert 240 < lost < 360


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"noise": 1.5}, "noise must be a probability"),
        ({"no_speech": -0.1}, "no_speech must be a probability"),
        ({"channel_db": float("nan")}, "channel_db must be from 0 to 60"),
        ({"level": 2.0}, "level must be a probability"),
        ({"level_db": (-10.0, -40.0)}, "level_db must be two levels"),
        ({"padding_seconds": 100.0}, "padding_seconds must be from 0 to 60"),
        ({"reverb_seconds": 0.0}, "reverb_seconds must be from 0.05"),
        ({"snr_db": (20.0, 10.0)}, "snr_db must be two ratios"),
    ],
)
def test_what_makes_no_sense_is_refused(option, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**option)
