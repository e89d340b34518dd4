"""Log-mel features, computed inside the model, and SpecAugment."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from sru_asr.audio import SAMPLE_RATE

WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
PAST_SAMPLES = WINDOW_SAMPLES - HOP_SAMPLES  # that a frame sees before its own
PAST_HOPS = -(-PAST_SAMPLES // HOP_SAMPLES)
N_FFT = 512
FRAMES_PER_SECOND = SAMPLE_RATE / HOP_SAMPLES
LOWEST_HERTZ, HIGHEST_HERTZ = 20.0, 7600.0  # where the first mel band begins and the last one ends
LOG_FLOOR = 1e-9  # mel power below which silence is silence: about the rounding noise of 16-bit audio, 4e-10
# Nepers of power. Where recordings of 8 kHz have nothing, they do not tell how much others, or noise, deviate.
LEAST_DEVIATION = 1.0


def frame_count(samples: Tensor) -> Tensor:
    """Frames of utterances of `samples` samples, one for each whole hop. Any integer tensor."""
    return torch.div(samples, HOP_SAMPLES, rounding_mode="floor")


class LogMel(nn.Module):
    """Log-mel spectrogram, normalised by statistics of the training data that the checkpoint carries.

    A frame's window ends where its hop ends, so that no frame waits for audio beyond itself; before the utterance there
    is silence.

    Args:
        n_mels: mel bands between 20 Hz and 7600 Hz.
        floor: mel power below which nothing is told apart.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_mels: int = 80, floor: float = LOG_FLOOR) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.floor = floor
        with torch.device("cpu"):  # its filters are computed from values, which a model of shapes only has not
            self.spectrum = torchaudio.transforms.Spectrogram(
                n_fft=N_FFT, win_length=WINDOW_SAMPLES, hop_length=HOP_SAMPLES, center=False, power=None
            )
            self.mel = torchaudio.transforms.MelScale(
                n_mels,
                SAMPLE_RATE,
                f_min=LOWEST_HERTZ,
                f_max=HIGHEST_HERTZ,
                n_stft=N_FFT // 2 + 1,
                norm="slaney",
                mel_scale="slaney",
            )
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("scale", torch.ones(n_mels))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Features before normalisation.

        Args:
            waveform: (batch, samples) float32 in [-1, 1] at 16 kHz.

        Returns:
            (batch, frames, n_mels) float32, natural log of mel power; frames as `frame_count` says.
        """
        # torch pads the 400-sample window to the FFT's 512 on both sides: so is the signal, and the window of frame t
        # ends before sample 160 (t + 1).
        margin = (N_FFT - WINDOW_SAMPLES) // 2
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = self.spectrum(nn.functional.pad(waveform.float(), (margin + PAST_SAMPLES, margin)))
            # Not abs(), which takes a root that the square undoes, nor sum(), slow over two numbers: either costs more
            # than the transform.
            real, imaginary = torch.view_as_real(spectrum).unbind(-1)
            return self.mel(real * real + imaginary * imaginary).clamp(min=self.floor).log().transpose(1, 2)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features.

        Args:
            waveform: (batch, samples) float32 in [-1, 1] at 16 kHz.
            lengths: (batch,) int64, samples.

        Returns:
            (batch, frames, n_mels) float32, zero (the mean) behind each length, and the lengths in frames.

        Raises:
            ValueError: the module has been converted to other numbers than float32, in which powers have no room; or
                there are not as many lengths as waveforms, or one is negative or greater than theirs (on a GPU nobody
                looks at their values).
        """
        if self.mean.dtype != torch.float32:
            raise ValueError(
                f"expected a model in float32, found {self.mean.dtype}: use .float(), and compute in bfloat16 "
                'by `with sru_asr.precision.arithmetic(model, "bfloat16"):`'
            )
        if lengths.shape != waveform.shape[:1]:
            raise ValueError(
                f"expected a length for each of {waveform.shape[0]} waveforms, found shape {tuple(lengths.shape)}"
            )
        looked_at = lengths.device.type == "cpu" and not torch.compiler.is_compiling()
        if looked_at and not ((lengths >= 0) & (lengths <= waveform.shape[1])).all():
            raise ValueError(f"expected lengths from 0 to the {waveform.shape[1]} samples, found {lengths.tolist()}")
        # The transform is longer than its window, so that what is no number behind an end would come before it.
        waveform = mask_padding(waveform, lengths)
        lengths = frame_count(lengths)
        if waveform.shape[0] == 0 or waveform.shape[1] < HOP_SAMPLES:
            return self.mean.new_zeros(waveform.shape[0], waveform.shape[1] // HOP_SAMPLES, self.n_mels), lengths
        features = (self.log_mel(waveform) - self.mean) * self.scale
        return mask_padding(features, lengths), lengths


def mask_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Set (batch, frames, ...) to zero behind each length."""
    if whole(x.shape[1], lengths):
        return x
    behind = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
    return x.masked_fill(behind.view(*behind.shape, *(1,) * (x.dim() - 2)), 0)


def whole(frames: int, lengths: Tensor) -> bool:
    """Whether all lengths are known to be at least `frames`: the CPU's are for free, a GPU's are not."""
    return lengths.device.type == "cpu" and not torch.compiler.is_compiling() and bool((lengths >= frames).all())


class FeatureStatistics:
    """Running mean and standard deviation per mel band, in float64."""

    def __init__(self, n_mels: int) -> None:
        self.count = 0
        self.total = torch.zeros(n_mels, dtype=torch.float64)
        self.squares = torch.zeros(n_mels, dtype=torch.float64)

    def add(self, log_mel: Tensor, lengths: Tensor) -> None:
        """Take in a batch: (batch, frames, n_mels) and its lengths in frames."""
        for row, length in zip(log_mel.double().cpu(), lengths.tolist(), strict=True):
            self.count += length
            self.total += row[:length].sum(0)
            self.squares += row[:length].square().sum(0)

    def write_to(self, features: LogMel) -> None:
        """Make `features` normalise by what was seen.

        Raises:
            ValueError: nothing was.
        """
        if self.count == 0:
            raise ValueError(
                "expected features to take statistics from, found no frames: are all utterances too short?"
            )
        mean = self.total / self.count
        deviation = (self.squares / self.count - mean.square()).clamp(min=LEAST_DEVIATION**2).sqrt()
        features.mean.copy_(mean)
        features.scale.copy_(1 / deviation)


class SpecAugment(nn.Module):
    """Masks stripes of frequency and time with the mean (Park et al. 2019), without loops over the batch.

    Args:
        n_frequency: frequency masks per utterance.
        frequency_width: greatest width of one, in mel bands.
        time_share: an utterance has one time mask, and so many more for each second of speech; 0 for none at all.
        time_width: greatest width of one, in frames; in short utterances a fifth of their length at most, or little
            would be left of a single word.
    """

    def __init__(
        self, n_frequency: int = 2, frequency_width: int = 10, time_share: float = 0.5, time_width: int = 20
    ) -> None:
        super().__init__()
        if min(n_frequency, frequency_width, time_share, time_width) < 0:
            raise ValueError(
                "masks must not be negative in number, share or width, found "
                f"{n_frequency=}, {frequency_width=}, {time_share=}, {time_width=}"
            )
        self.n_frequency = n_frequency
        self.frequency_width = frequency_width
        self.time_share = time_share
        self.time_width = time_width

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Mask `features` (batch, frames, n_mels) in training; pass them through otherwise."""
        if not self.training:
            return features
        _, frames, n_mels = features.shape
        bands = torch.full_like(lengths, n_mels)
        frequency = self._stripes(n_mels, self.n_frequency, torch.full_like(lengths, self.frequency_width), bands)
        n_time = int(frames / FRAMES_PER_SECOND * self.time_share) + 1 if self.time_share else 0
        time = self._stripes(frames, n_time, (lengths // 5).clamp(max=self.time_width), lengths)
        # Masks are drawn for the longest utterance; a shorter one gets its share of them.
        if time is not None:
            wanted = (lengths / FRAMES_PER_SECOND * self.time_share).long() + 1
            time &= torch.arange(n_time, device=features.device)[None, :, None] < wanted[:, None, None]
            features = features.masked_fill(time.any(1)[:, :, None], 0)
        if frequency is not None:
            features = features.masked_fill(frequency.any(1)[:, None, :], 0)
        return features

    def _stripes(self, size: int, count: int, most: Tensor, lengths: Tensor) -> Tensor | None:
        """(batch, count, size) bool: `count` stripes within each utterance's length, of 0 to its `most` (batch,)."""
        if count == 0:
            return None
        shape = (lengths.shape[0], count, 1)
        widths = (torch.rand(shape, device=lengths.device) * (most[:, None, None] + 1)).floor()
        room = (lengths[:, None, None] - widths + 1).clamp(min=0)
        starts = (torch.rand(shape, device=lengths.device) * room).floor()
        at = torch.arange(size, device=lengths.device)
        return (at >= starts) & (at < starts + widths)
