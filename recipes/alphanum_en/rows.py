"""Utterances of one speaker after the other, with pauses between them, as people speak to a live recogniser."""

from collections import defaultdict
from pathlib import Path

from sru_asr.corpus import Utterance, write_cuts, write_flac

PAUSE_SECONDS = 1.5
NOISE = 1e-4  # root mean square of what is heard in a pause: no room is silent


def prepare_rows(manifest: Path, folder: Path) -> Path:
    """Writes a recording for each speaker of a manifest, and a manifest of these.

    Args:
        manifest: Of the utterances.
        folder: Where recordings and manifest go.

    Returns:
        The manifest.
    """
    import numpy as np

    from sru_asr.audio import SAMPLE_RATE
    from sru_asr.data import load_waveform
    from sru_asr.manifest import load_manifest

    of_speakers = defaultdict(list)
    for cut in load_manifest(manifest):
        of_speakers[cut.supervisions[0].speaker].append(cut)
    rows = []
    for number, (speaker, cuts) in enumerate(sorted(of_speakers.items())):
        rng = np.random.default_rng(number)
        parts = []
        for cut in cuts:
            pause = NOISE * rng.standard_normal(int(PAUSE_SECONDS * SAMPLE_RATE), dtype=np.float32)
            parts += [load_waveform(cut).numpy(), pause]
        path = folder / f"{speaker}.flac"
        write_flac(path, np.concatenate(parts), SAMPLE_RATE)
        rows.append(Utterance(speaker, path, " ".join(cut.supervisions[0].text for cut in cuts), speaker))
    write_cuts(rows, folder / "dev.jsonl.gz")
    return folder / "dev.jsonl.gz"
