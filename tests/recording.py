"""What is said into the microphones of tests: of voices that the shipped model never heard, and has right."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from sru_asr.audio import SAMPLE_RATE, read, resample

AUDIO = Path(__file__).resolve().parents[1] / "data/alphanum/audio"
SPOKEN = ("af_sarah-0177.opus", "af_sarah-0373.opus")


def write_recording(path: Path) -> Path:
    """The utterances with pauses between them, after some silence; 48 kHz, as microphones have it."""
    silence = np.zeros(SAMPLE_RATE * 3 // 2, np.float32)
    parts = [part for name in SPOKEN for part in (silence, read(AUDIO / name).numpy())]
    samples = resample(torch.from_numpy(np.concatenate([*parts, silence])), SAMPLE_RATE, 48_000)
    soundfile.write(path, samples.numpy(), 48_000, subtype="PCM_16")
    return path
