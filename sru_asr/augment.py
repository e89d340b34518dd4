"""Rooms, channels, noise and levels that recordings come with, made on the fly: nothing is downloaded.

Rooms and channels are linear filters, so one Fourier transform applies both.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sru_asr.audio import SAMPLE_RATE
from sru_asr.text import normalize

# Reverberation time is that of a decay by 60 dB, in nepers of amplitude.
DECAY_60_DB = 60 / 20 * np.log(10)
# Between these frequencies a channel's gain is a straight line over the logarithm of frequency.
CHANNEL_HERTZ = (30, 60, 150, 400, 1000, 2500, 3800, 6000)
# What is left of the spectrum ends somewhere here, half of the time as telephones have it.
BAND_HERTZ = (3300, 7000)
TELEPHONE_HERTZ = (3300, 4000)
# Above the limit nothing is left of it, after octaves from a wall, as where 8 kHz were sampled, to a slope.
BAND_OCTAVES = (0.03, 1.0)
BAND_DB = 100
# Noise has power falling with frequency to the power of 0 (white) to 2 (brown).
NOISE_COLOURS = (0.0, 2.0)
TRIM_SAMPLES = 160  # 10 ms
TRIM_DB = (18.0, 40.0)  # below the loudest 10 ms
# Where a recording of one word is clipped to what is loud, hiss counts for nothing.
CLIP_DB = (8.0, 30.0)
CLIP_HERTZ = (100, 3400)
SHORTEST_CLIP = 10  # blocks of 10 ms
# Pauses between utterances that are joined; longer ones would be mostly silence to learn from.
LONGEST_PAUSE_SECONDS = 3.0
# Root mean square of what is joined, before the level of the whole is drawn: people do not get louder for digits.
JOINED_DB = (-29.0, -21.0)
QUIETEST = 1e-4  # root mean square below which there is no speech to set a noise against
NO_SPEECH_DB = (-90.0, -20.0)  # levels of the noise where nothing is said, the lowest below all that 16 bits can hold

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AugmentConfig:
    """How often, and how much, training audio is changed. Probabilities are for each utterance, each epoch.

    Attributes:
        noise: probability of noise, stationary or swelling, of a colour drawn at random.
        snr_db: ratios of speech to noise, the lowest and the highest.
        reverb: probability of a room.
        reverb_seconds: longest reverberation time (to -60 dB).
        channel: probability of a microphone's frequency response.
        channel_db: most that it adds or takes away anywhere.
        band: probability of an upper limit to the frequencies, as telephones have.
        level: probability that the level is set anew. Else it tells a model which data set it hears, and from that what
            is likely to be said (docs/log.md).
        level_db: root mean square that speech then has, the lowest and the highest, in decibels below full scale.
        trim: probability that what is quiet at both ends is cut off, faint consonants at times included, as recordings
            of single words often have it.
        clip: probability that of a word of `clip_words` said alone only the loud middle is left, so that SIX keeps its
            vowel and loses both its S, as in recordings that loudness starts and stops.
        clip_words: the words that this is for. They must differ by their vowels: a clipped C is a clipped B.
        padding_seconds: most that is added on either side, silent but for the noise.
        join: probability that the utterances of a batch are joined, several to one, as who speaks live goes on after a
            pause.
        pause_seconds: mean of the pauses between them, which are drawn from an exponential distribution.
        no_speech: share of utterances replaced by noise of any level in which nothing is said.
    """

    noise: float = 0.2
    snr_db: tuple[float, float] = (5.0, 35.0)
    reverb: float = 0.1
    reverb_seconds: float = 0.6
    channel: float = 0.25
    channel_db: float = 8.0
    band: float = 0.3
    level: float = 1.0
    level_db: tuple[float, float] = (-45.0, -10.0)
    trim: float = 0.3
    clip: float = 0.3
    clip_words: tuple[str, ...] = ()
    padding_seconds: float = 0.2
    join: float = 0.0
    pause_seconds: float = 0.4
    no_speech: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip_words", tuple(map(normalize, self.clip_words)))
        for name in ("noise", "reverb", "channel", "band", "trim", "clip", "level", "join", "no_speech"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment {name} must be a probability from 0 to 1, found {getattr(self, name)}")
        for name in ("channel_db", "padding_seconds", "pause_seconds"):
            if not 0 <= getattr(self, name) <= 60:
                raise ValueError(f"augment {name} must be from 0 to 60, found {getattr(self, name)}")
        if not 0.05 <= self.reverb_seconds <= 10:
            raise ValueError(f"augment reverb_seconds must be from 0.05 to 10, found {self.reverb_seconds}")
        if not -90 <= self.level_db[0] <= self.level_db[1] <= 0:
            raise ValueError(f"augment level_db must be two levels from -90 to 0, the lower first: {self.level_db}")
        if not -20 <= self.snr_db[0] <= self.snr_db[1] <= 100:
            raise ValueError(f"augment snr_db must be two ratios from -20 to 100, the lower first: {self.snr_db}")

    @classmethod
    def none(cls) -> AugmentConfig:
        """Leaves audio as it is."""
        return cls(noise=0, reverb=0, channel=0, band=0, level=0, trim=0, clip=0, padding_seconds=0, no_speech=0)


class Augmented:
    """What becomes of one utterance in one epoch: the same in every process, order and resumed run.

    (By numpy, whose sums do not depend on the number of threads, as torch's do.) An object is good for one call.

    Args:
        config: what happens how often.
        key: what the randomness is drawn from, such as seed, epoch and utterance.

    Attributes:
        has_speech: whether anything is left of what is said; if not, the transcript is empty.
    """

    def __init__(self, config: AugmentConfig, key: str) -> None:
        self.config = config
        self._random = np.random.default_rng(zlib.crc32(key.encode()))
        self.has_speech = not self._happens(config.no_speech)

    def __call__(self, waveform: Tensor, text: str = "") -> Tensor:
        """Change a waveform.

        Args:
            waveform: (samples,) float32 in [-1, 1] at 16 kHz.
            text: what is said in it, normalised; empty where nobody knows.

        Returns:
            (samples,) float32, peaks of which may lie above 1; with `padding_seconds` it is longer.
        """
        return self.joined([(waveform, text)])

    def joined(self, parts: Sequence[tuple[Tensor, str]]) -> Tensor:
        """Change some waveforms, with what is said in each, into one, with pauses between them; else as for one."""
        config, draw = self.config, self._random.uniform
        if self.has_speech:
            ends = [self._ends_changed(waveform.numpy(), text) for waveform, text in parts]
            if len(ends) > 1 and config.level:
                ends = [self._levelled(samples) for samples in ends]
            level = _rms(np.concatenate(ends))
            samples = self._padded(self._filtered(self._with_pauses(ends)))
        else:
            level = 10 ** (draw(*NO_SPEECH_DB) / 20)
            samples = np.zeros(sum(len(waveform) for waveform, _ in parts), np.float32)
        if not self.has_speech or (self._happens(config.noise) and level > QUIETEST):
            snr = draw(*config.snr_db) if self.has_speech else 0.0
            samples = samples + self._noise(len(samples)) * np.float32(level * 10 ** (-snr / 20))
        if self.has_speech and self._happens(config.level) and level > QUIETEST:
            samples = samples * np.float32(10 ** (draw(*config.level_db) / 20) / level)
        return torch.from_numpy(samples)

    def _happens(self, probability: float) -> bool:
        return bool(self._random.random() < probability)

    def _levelled(self, samples: Array) -> Array:
        """About as loud as the other utterances that it is joined with, whatever data set it is from."""
        decibels = self._random.uniform(*JOINED_DB)
        level = _rms(samples)
        return samples * np.float32(10 ** (decibels / 20) / level) if level > QUIETEST else samples

    def _ends_changed(self, samples: Array, text: str) -> Array:
        samples = self._trimmed(samples)
        return self._clipped(samples) if text in self.config.clip_words and self._happens(self.config.clip) else samples

    def _with_pauses(self, parts: list[Array]) -> Array:
        spaced = parts[:1]
        for part in parts[1:]:
            seconds = min(self._random.exponential(self.config.pause_seconds), LONGEST_PAUSE_SECONDS)
            spaced += [np.zeros(int(seconds * SAMPLE_RATE), np.float32), part]
        return np.concatenate(spaced)

    def _trimmed(self, samples: Array) -> Array:
        """Without the blocks at both ends that are quieter than the loudest by more than something drawn.

        But whole, where that would take more than half: then the loudest is a click, or there is little to take.
        """
        if not self._happens(self.config.trim):
            return samples
        blocks = samples[: len(samples) // TRIM_SAMPLES * TRIM_SAMPLES].reshape(-1, TRIM_SAMPLES)
        power = np.square(blocks).mean(1)
        if not power.size or power.max() < QUIETEST**2:
            return samples
        (loud,) = np.nonzero(power >= power.max() * 10 ** (-self._random.uniform(*TRIM_DB) / 10))
        left = samples[loud[0] * TRIM_SAMPLES : (loud[-1] + 1) * TRIM_SAMPLES]
        return left if 2 * len(left) >= len(samples) else samples

    def _clipped(self, samples: Array) -> Array:
        """From the first to the last block whose speech is as loud as the loudest block's but for something drawn."""
        blocks = samples[: len(samples) // TRIM_SAMPLES * TRIM_SAMPLES].reshape(-1, TRIM_SAMPLES)
        if len(blocks) < SHORTEST_CLIP:
            return samples
        hertz = np.fft.rfftfreq(TRIM_SAMPLES, 1 / SAMPLE_RATE)
        low, high = CLIP_HERTZ
        spectrum = np.fft.rfft(blocks * np.hanning(TRIM_SAMPLES).astype(np.float32))
        power = np.square(np.abs(spectrum[:, (hertz >= low) & (hertz <= high)])).sum(1)
        (loud,) = np.nonzero(power >= power.max() * 10 ** (-self._random.uniform(*CLIP_DB) / 10))
        first = min(loud[0], len(blocks) - SHORTEST_CLIP)  # it may be a click at the end that is loudest
        last = max(loud[-1] + 1, first + SHORTEST_CLIP)
        return samples[first * TRIM_SAMPLES : last * TRIM_SAMPLES]

    def _padded(self, samples: Array) -> Array:
        most = self.config.padding_seconds * SAMPLE_RATE
        before, after = (self._random.random(2) * most).astype(int).tolist()
        return np.pad(samples, (before, after))

    def _filtered(self, samples: Array) -> Array:
        """Through a room, a channel and a band, at the same level as before."""
        config, draw = self.config, self._random.uniform
        room = self._happens(config.reverb)
        channel = self._happens(config.channel)
        band = self._happens(config.band)
        if not (room or channel or band) or len(samples) == 0:
            return samples
        response = self._room() if room else np.ones(1, np.float32)
        size = _fast_size(len(samples) + len(response))
        spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
        hertz = np.linspace(0, SAMPLE_RATE / 2, size // 2 + 1)
        decibels = np.zeros_like(hertz)
        if channel:
            points = draw(-config.channel_db, config.channel_db, len(CHANNEL_HERTZ))
            decibels += np.interp(np.log(hertz + 1), np.log(CHANNEL_HERTZ), points)
        if band:
            limit = draw(*(TELEPHONE_HERTZ if self._happens(0.5) else BAND_HERTZ))
            octaves = np.exp(draw(*np.log(BAND_OCTAVES)))
            decibels -= np.clip(np.log2((hertz + 1) / limit) / octaves, 0, 1) * BAND_DB
        filtered = np.fft.irfft(spectrum * 10 ** (decibels / 20), size)[: len(samples)].astype(np.float32)
        return filtered * np.float32(_rms(samples) / max(_rms(filtered), 1e-12))

    def _room(self) -> Array:
        """An impulse response: the direct sound, then noise that decays exponentially (Polack's model)."""
        draw = self._random.uniform
        seconds = draw(0.05, self.config.reverb_seconds)
        tail = self._random.standard_normal(int(seconds * SAMPLE_RATE), dtype=np.float32)
        time = np.arange(len(tail), dtype=np.float32) / SAMPLE_RATE
        tail *= np.exp(-DECAY_60_DB * time / seconds).astype(np.float32)
        tail[: int(draw(0.001, 0.02) * SAMPLE_RATE)] = 0  # until the first reflection
        direct_to_reverberant_db = draw(-3, 15)
        tail *= 10 ** (-direct_to_reverberant_db / 20) / max(float(np.sqrt(np.square(tail).sum())), 1e-9)
        tail[0] = 1
        return tail

    def _noise(self, n_samples: int) -> Array:
        """(n_samples,) of noise with a root mean square of 1."""
        draw = self._random.uniform
        white = self._random.standard_normal(n_samples, dtype=np.float32)
        if n_samples == 0:
            return white
        size = _fast_size(n_samples)
        hertz = np.linspace(0, SAMPLE_RATE / 2, size // 2 + 1).clip(min=50)
        spectrum = np.fft.rfft(white, size) * hertz ** (-draw(*NOISE_COLOURS) / 2)
        noise = np.fft.irfft(spectrum, size)[:n_samples].astype(np.float32)
        if self._happens(0.5):  # swells and fades, between one and a hundredth
            points = max(int(n_samples / SAMPLE_RATE * draw(0.5, 4)), 1) + 1
            envelope = np.interp(np.linspace(0, points - 1, n_samples), np.arange(points), draw(-2, 0, points))
            noise *= (10**envelope).astype(np.float32)
        return noise / np.float32(max(_rms(noise), 1e-9))


def _rms(samples: Array) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean())) if len(samples) else 0.0


def _fast_size(samples: int) -> int:
    """The next length of which Fourier transforms are quick: a power of two, or three quarters of one."""
    power = 1 << max(samples - 1, 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= samples else power
