"""Other tempos and other vocal tracts from the same features: nothing is recorded again.

Speed perturbation moves tempo, pitch and vocal tract together, as a tape does. Here the length of an utterance and the
resonances of the vocal tract change independently, and the pitch stays.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sru_asr.features import HIGHEST_HERTZ, LOWEST_HERTZ, mask_padding

# Slaney's mel scale, which the features use: 3 mel per 200 Hz up to 1 kHz, above it 27 mel per factor of 6.4.
CORNER_HERTZ, MEL_PER_HERTZ, MEL_PER_NEPER = 1000.0, 3 / 200, 27 / math.log(6.4)
CORNER_MEL = CORNER_HERTZ * MEL_PER_HERTZ


class Warp(nn.Module):
    """Stretches log-mel features over time and over frequency, each utterance by factors of its own, in training only.

    Frequencies as in vocal tract length perturbation (Jaitly and Hinton 2013), but between mel bands and without a bend
    at the highest. Between frames, and between bands, features are straight lines.

    Args:
        tempo: the most by which an utterance becomes faster or slower, as a factor; 1 for not at all.
        vocal_tract: the most by which frequencies are multiplied or divided; 1 for not at all.
    """

    def __init__(self, tempo: float = 1.2, vocal_tract: float = 1.1) -> None:
        super().__init__()
        if not 1 <= tempo <= 4 or not 1 <= vocal_tract <= 2:
            raise ValueError(
                f"expected a warp's tempo from 1 to 4 and its vocal_tract from 1 to 2, found {tempo} and {vocal_tract}"
            )
        self.tempo = tempo
        self.vocal_tract = vocal_tract

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Warp in training; pass through otherwise.

        Args:
            features: (batch, frames, n_mels), zero behind each length.
            lengths: (batch,) int64, frames.

        Returns:
            The same with other numbers of frames, each its old one times `tempo` at most and divided by it at least,
            rounded; on a GPU padded to the most that there could be.
        """
        if not self.training or features.shape[1] == 0:
            return features, lengths
        if self.tempo > 1:
            # To ask a GPU for the longest would be to wait for it.
            on_cpu = features.device.type == "cpu"
            stretched = self._stretched(lengths)
            frames = int(stretched.max()) if on_cpu else math.ceil(features.shape[1] * self.tempo)
            features, lengths = _stretch(features, lengths, stretched, frames), stretched
        if self.vocal_tract > 1:
            bands = _band_weights(features.shape[2], self._factors(lengths, self.vocal_tract)).to(features)
            with torch.autocast(features.device.type, enabled=False):  # as what features are made with
                features = features @ bands
        return mask_padding(features, lengths), lengths

    def _stretched(self, lengths: Tensor) -> Tensor:
        """(batch,) int64, the frames that each utterance will have; none only where there are none."""
        frames = (lengths * self._factors(lengths, self.tempo)).round().long()
        return frames.clamp(min=1).where(lengths > 0, 0)

    @staticmethod
    def _factors(lengths: Tensor, most: float) -> Tensor:
        """(batch,) float32, log-uniform from 1 / `most` to `most`."""
        return torch.exp((2 * torch.rand(lengths.shape, device=lengths.device) - 1) * math.log(most))


def _stretch(features: Tensor, lengths: Tensor, stretched: Tensor, n_frames: int) -> Tensor:
    """Spread each utterance over `stretched` (batch,) frames, of `n_frames`; what is behind them means nothing."""
    frames = torch.arange(n_frames, device=features.device)
    # The first and the last frame stay the first and the last.
    last = (lengths - 1).clamp(min=0)
    at = frames * (last / (stretched - 1).clamp(min=1))[:, None]
    before = at.long().minimum(last[:, None])
    behind = (before + 1).minimum(last[:, None])
    width = features.shape[2]
    one = features.gather(1, before[:, :, None].expand(-1, -1, width))
    other = features.gather(1, behind[:, :, None].expand(-1, -1, width))
    return torch.lerp(one, other, (at - before).clamp(max=1)[:, :, None].to(features))


def _band_weights(n_mels: int, factors: Tensor) -> Tensor:
    """(batch, n_mels, n_mels): what each band (row) gives to a band (column) whose frequencies are divided by a factor.

    Bands that would come from beyond the first or last one repeat it.
    """
    lowest, highest = (_mel(torch.tensor(hertz)) for hertz in (LOWEST_HERTZ, HIGHEST_HERTZ))
    spacing = (highest - lowest) / (n_mels + 1)
    bands = torch.arange(n_mels, device=factors.device)
    hertz = _hertz(lowest + spacing * (bands + 1))
    at = (_mel(hertz * factors[:, None]) - lowest) / spacing - 1
    return (1 - (at.clamp(0, n_mels - 1)[:, None, :] - bands[:, None]).abs()).clamp(min=0)


def _mel(hertz: Tensor) -> Tensor:
    above = CORNER_MEL + MEL_PER_NEPER * (hertz / CORNER_HERTZ).clamp(min=1).log()
    return torch.where(hertz < CORNER_HERTZ, hertz * MEL_PER_HERTZ, above)


def _hertz(mel: Tensor) -> Tensor:
    above = CORNER_HERTZ * ((mel - CORNER_MEL).clamp(min=0) / MEL_PER_NEPER).exp()
    return torch.where(mel < CORNER_MEL, mel / MEL_PER_HERTZ, above)
