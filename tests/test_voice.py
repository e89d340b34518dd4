"""Voice activity: as the network's own package says, in pieces of any size, and what it does to captions."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import MODEL, speech

from sru_asr import voice as module
from sru_asr.audio import read
from sru_asr.live import Live
from sru_asr.voice import Activity, Voice, VoiceError, listen

silero_vad = pytest.importorskip("silero_vad", reason="pip install sru-asr[vad]")
pytest.importorskip("onnxruntime", reason="pip install sru-asr[vad]")
AUDIO = Path(__file__).resolve().parents[1] / "data/alphanum/audio"


@pytest.fixture(scope="module")
def spoken():
    """A second of nothing, an utterance, a second of nothing."""
    return torch.cat([torch.zeros(16_000), read(AUDIO / "af_sarah-0177.opus"), torch.zeros(16_000)])


def heard(waveform, sizes=()):
    voice = Voice()
    for size in sizes:
        piece, waveform = waveform[:size], waveform[size:]
        voice.push(piece)
    voice.push(waveform)
    return voice.take()


def test_it_hears_what_the_package_itself_hears(spoken):
    network = silero_vad.load_silero_vad(onnx=True)
    expected = [network(window, 16_000).item() for window in spoken.split(512) if len(window) == 512]
    assert heard(spoken) == pytest.approx(expected, abs=1e-4)
    assert max(expected[:25]) < 0.5 < max(expected)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 3_000), max_size=6), st.integers(0, 9))
def test_pieces_and_company_make_no_difference(sizes, seed):
    waveform = speech(1.2, seed)
    alone = heard(waveform)
    assert len(alone) == len(waveform) // 512
    assert heard(waveform, sizes) == pytest.approx(alone, abs=1e-5)
    voices = [Voice() for _ in range(3)]
    others = [waveform, speech(0.4, 100), speech(2.0, 101)]
    listen(voices, others)
    for voice, other in zip(voices, others, strict=True):
        assert voice.take() == pytest.approx(heard(other), abs=1e-4)


def test_it_holds_no_more_than_a_window(spoken):
    voice = Voice()
    voice.push(torch.cat([spoken] * 5))
    assert len(voice._audio) < 64 + 512
    assert voice._audio.base is None


def test_activity_is_told_as_of_a_frame_whatever_has_been_heard_since(spoken):
    at_once, piece_by_piece = Activity(640), Activity(640)
    at_once.voice.push(spoken)
    n_frames = len(spoken) // 640
    found = [at_once.last_spoken(n) for n in range(1, n_frames + 1)]
    for n in range(1, n_frames + 1):
        piece_by_piece.voice.push(spoken[640 * (n - 1) : 640 * n])
        assert piece_by_piece.last_spoken(n) == found[n - 1]
    assert found[0] == -1
    assert found == sorted(found)
    # The utterance begins after a second and ends a second before the end; around it there is some silence.
    assert 25 - 3 <= next(frame for frame in found if frame >= 0) <= 25 + 25
    assert n_frames - 25 - 25 <= found[-1] <= n_frames - 25 + 8


def captions(waveform, sizes=(), **options):
    live = Live(MODEL, 2, 6, **options)
    found = []
    for size in sizes:
        piece, waveform = waveform[:size], waveform[size:]
        found += live.push(piece)
    return [caption for caption in [*found, *live.push(waveform), *live.finish()] if caption.final]


def letters(found):
    """Without spaces: where an utterance ends, a word does."""
    return "".join(word.text for caption in found for word in caption.words)


def test_an_utterance_is_not_over_while_somebody_speaks(monkeypatch):
    """What is recognised stays the same, and the pieces make no difference."""
    waveform = torch.cat([speech(2, 1), torch.zeros(16_000), speech(1, 2), torch.zeros(24_000)])
    plain = captions(waveform, pause_seconds=0.2)
    assert len(plain) > 1
    monkeypatch.setattr(module, "_run", lambda windows, states: (torch.ones(len(windows), 1).numpy(), states))
    spoken = captions(waveform, pause_seconds=0.4, vad=True)
    assert 1 <= len(spoken) < len(plain)
    assert letters(spoken) == letters(plain)
    assert captions(waveform, [1_000, 20_001, 3], pause_seconds=0.4, vad=True) == spoken
    monkeypatch.setattr(module, "_run", lambda windows, states: (torch.zeros(len(windows), 1).numpy(), states))
    assert captions(waveform, pause_seconds=0.2, vad=True) == plain


def test_silence_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(module, "_run", lambda windows, states: (torch.zeros(len(windows), 1).numpy(), states))
    live = Live(MODEL, 2, 6, vad=True)
    monkeypatch.setattr(live._decoder, "steps", silent(live))  # no token, whatever the model hears
    for _ in range(10):
        live.push(torch.zeros(16_000))
    assert len(live._activity.voice.probabilities) + len(live._activity._windows) < 40


def silent(live):
    """Frames that pass without a token."""

    def steps(log_probs):
        for _ in log_probs:
            live._decoder.n_frames += 1
            yield

    return steps


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    module._network.cache_clear()
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VoiceError, match=r"pip install 'sru-asr\[vad\]'"):
        Live(MODEL, 2, 6, vad=True)
