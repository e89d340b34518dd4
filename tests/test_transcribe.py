"""From files and waveforms to text: every way in gives the same, long audio goes through windows, faults are named."""

import itertools
from collections import deque

import numpy as np
import pytest
import soundfile
import torch

from sru_asr import transcribe as module
from sru_asr.audio import LOUDEST, AudioError, read
from sru_asr.decode import Greedy, Hypothesis, Path
from sru_asr.model import ModelConfig, Recognizer
from sru_asr.text import BLANK, CharTokenizer
from sru_asr.transcribe import Transcript

SAMPLE_RATE = 16_000


def tiny_model():
    """Random weights, but for a memory of a quarter of a minute, which makes windows matter, and firm decisions."""
    torch.manual_seed(0)
    model = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=2), CharTokenizer())
    with torch.no_grad():
        for layer in model.encoder.sru.layers:
            layer.bias[:, 0] = 6
        model.ctc.linear.weight *= 4
    model.features.mean.fill_(-5.0)
    model.features.scale.fill_(0.5)
    return model.eval()


MODEL = tiny_model()


def speech(seconds, rate=SAMPLE_RATE, channels=1, seed=0):
    """A tone with a new pitch and loudness every tenth of a second, (samples, channels), the same at every rate."""
    rng = np.random.default_rng(seed)
    n_tones = int(10 * seconds) + 1
    pitch, loudness = rng.uniform(100, 3_000, n_tones), rng.uniform(0, 0.4, n_tones)
    t = np.arange(round(seconds * rate)) / rate
    tone = np.minimum((10 * t).astype(int), n_tones - 1)
    samples = loudness[tone] * np.sin(2 * np.pi * pitch[tone] * t)
    return np.stack([samples / (channel + 1) for channel in range(channels)], axis=1).astype(np.float32)


def write(path, samples, rate=SAMPLE_RATE, **kwargs):
    soundfile.write(path, samples, rate, **kwargs)
    return path


def by_hand(log_probs):
    """Text, seconds of the tokens and score of (frames, vocab) log-probabilities."""
    best, tokens, seconds = log_probs.argmax(-1).tolist(), [], []
    for frame, (token, previous) in enumerate(zip(best, [BLANK, *best], strict=False)):
        if token not in (BLANK, previous):
            tokens.append(token)
            seconds.append(frame * 0.04)
    return " ".join(CharTokenizer().decode(tokens).split()), seconds, float(log_probs.amax(-1).sum())


def offline(waveform, chunk=0, lookahead=0):
    with torch.inference_mode():
        return MODEL(waveform[None], torch.tensor([len(waveform)]), chunk, lookahead)[0][0]


def check(transcript, log_probs, n_samples):
    text, seconds, score = by_hand(log_probs)
    assert isinstance(transcript, Transcript)
    assert transcript.text == str(transcript) == text
    assert transcript.token_seconds == pytest.approx(seconds, abs=1e-3)
    assert transcript.score == pytest.approx(score, rel=2e-5)
    assert transcript.seconds == n_samples / SAMPLE_RATE


def different(log_probs, others):
    """Whether `check` would tell them apart."""
    return by_hand(log_probs)[2] != pytest.approx(by_hand(others)[2], rel=1e-4)


def test_a_transcript_is_the_best_path(tmp_path):
    waveform = read(write(tmp_path / "a.wav", speech(3.0)))
    log_probs = offline(waveform)
    transcript = MODEL.transcribe(tmp_path / "a.wav")
    check(transcript, log_probs, len(waveform))
    assert len(transcript.text) > 3


def test_words_are_parted_by_single_spaces(monkeypatch):
    tokens = CharTokenizer().encode("  SO  IT'S ")
    monkeypatch.setattr(Greedy, "end", lambda *_: [Hypothesis(Path(tokens, list(range(11)), [1.0] * 11, -1.0), -1.0)])
    transcript = MODEL.transcribe(torch.zeros(16_000))
    assert transcript.text == "SO IT'S"
    assert transcript.token_seconds == [round(0.04 * i, 3) for i in range(11)]  # of all tokens, spaces too


def test_every_way_in_gives_the_same(tmp_path):
    paths = [write(tmp_path / f"{i}.wav", speech(1.0 + i, seed=i)) for i in range(3)]
    expected = [MODEL.transcribe(path) for path in paths]
    assert len({transcript.text for transcript in expected}) == 3
    waveforms = [read(path) for path in paths]
    assert [MODEL.transcribe(str(path)) for path in paths] == expected
    assert [MODEL.transcribe(waveform) for waveform in waveforms] == expected
    assert [MODEL.transcribe(waveform.double()) for waveform in waveforms] == expected
    assert MODEL.transcribe([str(paths[0]), paths[1], waveforms[2]]) == expected
    assert MODEL.transcribe(tuple(paths)) == expected
    assert MODEL.transcribe(deque(paths)) == expected
    assert MODEL.transcribe([]) == []


def test_a_waveform_that_is_part_of_a_graph_or_of_a_larger_tensor(tmp_path):
    waveform = torch.from_numpy(speech(1.0)[:, 0])
    expected = MODEL.transcribe(waveform)
    assert MODEL.transcribe(waveform.clone().requires_grad_()) == expected
    assert MODEL.transcribe(torch.stack([waveform, waveform], 1)[:, 1]) == expected


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("suffix", "rate", "kwargs"),
    [
        ("wav", 8_000, {}),
        ("wav", 48_000, {}),
        ("flac", 44_100, {}),
        ("mp3", 16_000, {}),
        ("ogg", 22_050, {}),
        ("opus", 48_000, {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_any_kind_of_file(tmp_path, suffix, rate, channels, kwargs):
    path = write(tmp_path / f"a.{suffix}", speech(1.5, rate, channels), rate, **kwargs)
    waveform = read(path)
    check(MODEL.transcribe(path), offline(waveform), len(waveform))
    assert len(waveform) / SAMPLE_RATE == pytest.approx(1.5, abs=0.01)


@pytest.fixture
def _short_windows(monkeypatch):
    """Long begins at two seconds, windows are of 1.2 + 0.4 s: 30 + 10 frames."""
    monkeypatch.setattr(module, "LONGEST_WHOLE_SECONDS", 2)
    monkeypatch.setattr(module, "LONG_CHUNK_SECONDS", 1.2)
    monkeypatch.setattr(module, "LONG_LOOKAHEAD_SECONDS", 0.4)


@pytest.mark.usefixtures("_short_windows")
@pytest.mark.parametrize("n_samples", [32_001, 33_000, 63_999, 64_000, 64_001, 100_000])
def test_long_audio_is_recognised_in_windows(tmp_path, n_samples):
    waveform = torch.from_numpy(speech(n_samples / SAMPLE_RATE)[:, 0])
    path = write(tmp_path / "a.wav", waveform.numpy(), subtype="FLOAT")
    expected = offline(waveform, 30, 10)
    assert different(expected, offline(waveform))
    check(MODEL.transcribe(waveform), expected, n_samples)
    check(MODEL.transcribe(path), expected, n_samples)


@pytest.mark.usefixtures("_short_windows")
def test_audio_is_long_beyond_the_limit_and_not_at_it():
    waveform = torch.from_numpy(speech(2.0)[:, 0])
    assert different(offline(waveform), offline(waveform, 30, 10))
    check(MODEL.transcribe(waveform), offline(waveform), 32_000)


def test_the_windows_of_long_audio_are_far_longer_than_a_word(tmp_path):
    waveform = torch.from_numpy(speech(70.0)[:, 0])
    path = write(tmp_path / "a.wav", waveform.numpy(), subtype="FLOAT")
    expected = offline(waveform, 20 * 25, 5 * 25)
    assert different(expected, offline(waveform))
    check(MODEL.transcribe(path), expected, 70 * SAMPLE_RATE)


@pytest.mark.usefixtures("_short_windows")
def test_a_long_file_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    """A piece is read when those before it have been recognised."""
    events = []
    push = module.Stream.push

    def blocks(path, seconds):
        for i in range(5):
            events.append(f"read {i}")
            yield torch.full((2 * SAMPLE_RATE,), 0.1)

    def noted(self, waveform):
        events.append("recognise")
        return push(self, waveform)

    monkeypatch.setattr(module, "blocks", blocks)
    monkeypatch.setattr(module.Stream, "push", noted)
    assert MODEL.transcribe("a.wav").seconds == 10
    # The first two are read before it is clear that the file is long.
    assert events == [
        "read 0",
        "read 1",
        "recognise",
        "recognise",
        *itertools.chain(*([f"read {i}", "recognise"] for i in (2, 3, 4))),
    ]


@pytest.mark.usefixtures("_short_windows")
def test_a_fault_late_in_a_long_file_is_an_error(tmp_path):
    samples = speech(5.0)
    samples[-1] = np.nan
    with pytest.raises(AudioError, match=r"NaN or infinity at 4\.9999 s"):
        MODEL.transcribe(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


# Bad input


def test_the_shortest_audio_is_one_window(tmp_path):
    assert MODEL.transcribe(torch.zeros(400)).seconds == 0.025
    for n_samples in (0, 1, 399):
        with pytest.raises(
            AudioError, match=rf"the waveform is too short.*at least 25 ms, found {n_samples / 16:.1f} ms"
        ):
            MODEL.transcribe(torch.zeros(n_samples))
    path = write(tmp_path / "a.wav", speech(0.024))
    with pytest.raises(AudioError, match=r"a\.wav is too short.*found 24\.0 ms"):
        MODEL.transcribe(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    samples = speech(1.0)
    samples[5_000] = value
    with pytest.raises(AudioError, match="finite samples about -1 to 1, found NaN or infinity"):
        MODEL.transcribe(torch.from_numpy(samples[:, 0]))
    with pytest.raises(AudioError, match=r"a\.wav: .*NaN or infinity"):
        MODEL.transcribe(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


@pytest.mark.parametrize("peak", [32_768.0, 1e10, 1e29])
def test_samples_whose_squares_are_no_numbers(tmp_path, peak):
    """They used to give no text, and a score of NaN, which JSON has not."""
    samples = peak * speech(1.0) / np.abs(speech(1.0)).max()
    with pytest.raises(AudioError, match=rf"finite samples about -1 to 1, found {peak:.3g}".replace("+", r"\+")):
        MODEL.transcribe(torch.from_numpy(samples[:, 0]))
    with pytest.raises(AudioError, match=r"a\.wav: expected samples .* about -1 to 1; found -?\d.*e\+\d\d at 0\."):
        MODEL.transcribe(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


@pytest.mark.parametrize("peak", [1.0, LOUDEST])
def test_the_loudest_samples_have_a_score(peak):
    transcript = MODEL.transcribe(torch.from_numpy(peak * np.sign(speech(1.0)[:, 0])))
    assert np.isfinite(transcript.score)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(16_000, dtype=torch.int16), "floating point.*found torch.int16.*divide 16-bit integers by 32768"),
        (torch.zeros(16_000, dtype=torch.bool), "found torch.bool"),
        (torch.zeros(16_000, dtype=torch.complex64), "found torch.complex64"),
        (torch.zeros(1, 16_000), r"found torch.float32 of shape \(1, 16000\); average channels"),
        (torch.zeros(16_000, 2), r"of shape \(16000, 2\)"),
        (torch.tensor(0.5), r"of shape \(\)"),
        ([0.0, 0.1], "torch.Tensor, found float"),
        ([None], "torch.Tensor, found NoneType"),
        (np.zeros(3, np.float32), "torch.Tensor, found ndarray; torch.from_numpy"),
    ],
)
def test_what_is_no_waveform(audio, message):
    with pytest.raises(AudioError, match=message):
        MODEL.transcribe(audio)


def a_text(path):
    path.write_text("HELLO WORLD\n" * 100)


def an_empty_file(path):
    path.touch()


def a_folder(path):
    path.mkdir()


def no_samples(path):
    write(path, np.zeros(0, np.float32))


def half_a_file(path):
    write(path, speech(2.0))
    path.write_bytes(path.read_bytes()[:20_000])


def nothing(path):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_text, "no audio, damaged audio or a kind that"),
        (an_empty_file, "an empty file"),
        (a_folder, "found a directory"),
        (no_samples, "0 samples"),
        (half_a_file, "cut short"),
        (nothing, "nothing there"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_files_that_cannot_be_transcribed(tmp_path, make, message):
    path = tmp_path / "a.wav"
    make(path)
    for audio in (path, str(path), [path]):
        with pytest.raises(AudioError, match=message) as error:
            MODEL.transcribe(audio)
        assert str(error.value).startswith(str(path))


def test_one_bad_file_of_a_list_is_an_error_that_names_it(tmp_path):
    good = write(tmp_path / "good.wav", speech(1.0))
    with pytest.raises(AudioError, match=r"missing\.wav"):
        MODEL.transcribe([good, "missing.wav", good])
