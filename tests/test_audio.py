"""Decoding and resampling: what is read, the same in blocks, and a clear error for every file that cannot be."""

import os
import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr import audio
from sru_asr.audio import LOUDEST, SAMPLE_RATE, AudioError, Resampler, blocks, check, header, read, resample

FORMATS = {
    "wav": {},
    "flac": {},
    "mp3": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
RATES = [8_000, 16_000, 44_100, 48_000]


def tone(seconds, rate, channels=1, seed=0):
    """Tones below 3 kHz with some noise, float32, (samples, channels): each channel its own."""
    t = np.arange(round(seconds * rate))[:, None] / rate
    pitch = np.linspace(220, 2800, channels)
    noise = np.random.default_rng(seed).standard_normal((len(t), channels))
    return (0.3 * np.sin(2 * np.pi * pitch * t) + 0.01 * noise).astype(np.float32)


def write(path, samples, rate=SAMPLE_RATE, **kwargs):
    soundfile.write(path, samples, rate, **kwargs)
    return path


def patched(path, offset, data):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A stereo file of 1.3 s in each format at each rate that it can have."""
    folder = tmp_path_factory.mktemp("library")
    paths = {}
    for rate in RATES:
        samples = tone(1.3, rate, channels=2)
        for suffix, kwargs in FORMATS.items():
            if (suffix, rate) != ("opus", 44_100):
                paths[suffix, rate] = write(folder / f"{rate}.{suffix}", samples, rate, **kwargs)
    return paths


CASES = [(suffix, rate) for suffix in FORMATS for rate in RATES if (suffix, rate) != ("opus", 44_100)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_read_gives_the_mean_of_the_channels_at_16_khz(library, case):
    suffix, _ = case
    waveform = read(library[case])
    assert waveform.dtype == torch.float32
    assert waveform.dim() == 1
    assert abs(len(waveform) - 1.3 * SAMPLE_RATE) <= 1
    assert header(library[case]).seconds == pytest.approx(1.3, abs=1e-4)

    # The same sound computed at 16 kHz, without the file, the codec and the resampler.
    expected = torch.from_numpy(tone(1.3, SAMPLE_RATE, channels=2)).mean(dim=1)[: len(waveform)]
    inside = slice(800, -800)  # the edges ring
    error = (waveform[: len(expected)] - expected)[inside].square().mean().sqrt()
    assert error < (0.012 if suffix in ("wav", "flac") else 0.04)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
@pytest.mark.parametrize("seconds", [0.013, 1.0, 60.0])
def test_blocks_are_what_read_reads(library, case, seconds):
    whole = read(library[case])
    pieces = list(blocks(library[case], seconds))
    size = round(seconds * SAMPLE_RATE)
    assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert 0 < len(pieces[-1]) <= size
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_of_several_pieces_is_read_as_libsndfile_reads_it_at_once(tmp_path, suffix):
    # After ten seconds libsndfile 1.2.2, read through soundfile itself, returns noise for the rest of this Opus file.
    path = write(tmp_path / f"long.{suffix}", tone(10.00125, 16_000), **FORMATS[suffix])
    whole, _ = soundfile.read(path, dtype="float32")
    # MP3 is decoded to floats whose last bit depends on how much is asked for at a time.
    torch.testing.assert_close(read(path), torch.from_numpy(whole), rtol=0, atol=1e-6 if suffix == "mp3" else 0)


@settings(deadline=None, max_examples=30)
@given(
    n_samples=st.integers(1, 3_000),
    rate=st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000]),
    target=st.sampled_from([8_000, 16_000]),
    channels=st.integers(1, 3),
    seconds=st.floats(0.001, 0.5),
)
def test_blocks_are_what_read_reads_whatever_the_sizes(tmp_path_factory, n_samples, rate, target, channels, seconds):
    path = tmp_path_factory.getbasetemp() / "any.wav"
    samples = np.random.default_rng(n_samples).standard_normal((n_samples, channels)).astype(np.float32)
    write(path, samples, rate, subtype="FLOAT")
    expected = resample(torch.from_numpy(samples.mean(axis=1)), rate, target)
    if not len(expected):
        with pytest.raises(AudioError, match=rf"at least one sample at {target} Hz"):
            read(path, target)
        return
    assert torch.equal(read(path, target), expected)
    assert torch.equal(torch.cat(list(blocks(path, seconds, target))), expected)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_blocks_need_a_length(tmp_path, seconds):
    with pytest.raises(ValueError, match="positive number of seconds"):
        next(blocks(write(tmp_path / "a.wav", tone(0.1, 16_000)), seconds))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_kinds_of_wav_have_one_scale(tmp_path, subtype):
    samples = tone(0.1, 16_000)
    waveform = read(write(tmp_path / "a.wav", samples, subtype=subtype))
    tolerance = {"PCM_U8": 1 / 128, "ULAW": 1 / 64}.get(subtype, 1 / 32768)
    torch.testing.assert_close(waveform, torch.from_numpy(samples[:, 0]), rtol=0, atol=tolerance)


def test_resample_keeps_a_tone():
    for source, target in [(8_000, 16_000), (44_100, 16_000), (48_000, 16_000), (16_000, 8_000)]:
        at = [
            torch.sin(2 * torch.pi * 440 * torch.arange(rate, dtype=torch.float64) / rate) for rate in (source, target)
        ]
        result = resample(at[0].float(), source, target)
        assert result.dtype == torch.float32
        assert len(result) == target
        torch.testing.assert_close(result[400:-400], at[1].float()[400:-400], rtol=0, atol=2e-4)


def test_resample_at_equal_rates_changes_nothing():
    waveform = torch.randn(1_000)
    assert torch.equal(resample(waveform, 16_000, 16_000), waveform)


def test_resample_takes_strided_and_empty_waveforms():
    waveform = torch.randn(2_000)
    assert torch.equal(resample(waveform[::2], 8_000, 16_000), resample(waveform[::2].clone(), 8_000, 16_000))
    assert resample(torch.empty(0), 8_000, 16_000).shape == (0,)


USUAL_RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]


@settings(deadline=None)
@given(
    st.one_of(st.sampled_from(USUAL_RATES), st.integers(1_000, 50_000)),
    st.sampled_from([8_000, 16_000]),
    st.lists(st.integers(0, 3_000), max_size=12),
)
def test_pieces_are_resampled_as_all_at_once_and_as_soon_as_can_be(source, target, sizes):
    """Streams of soxr's own held back up to 36 ms of 48 kHz, and 115 of 8."""
    waveform = np.random.default_rng(sum(sizes)).standard_normal(sum(sizes)).astype(np.float32)
    resampler, found, sent, given = Resampler(source, target), [], 0, 0
    for piece in np.split(waveform, np.cumsum(sizes)[:-1]) if sizes else []:
        found.append(resampler.push(piece))
        sent, given = sent + len(piece), given + len(found[-1])
        assert not given or resampler.needed(given) <= sent
        assert sent < resampler.needed(given + 1)
    result = np.concatenate([*found, resampler.finish()])
    # Of odd ratios soxr rounds the step from sample to sample, so that the whole drifts against its pieces (by up to
    # 6e-5 for a second of noise at 2321 Hz), or its filter reaches a little further (2e-4 at 3997 Hz, -87 dB).
    tolerance = 5e-6 if source in USUAL_RATES else 1e-3
    whole = resample(torch.from_numpy(waveform), source, target).numpy()
    np.testing.assert_allclose(result, whole, rtol=0, atol=tolerance)
    held = resampler.needed(1_000) / source - 1_000 / target
    assert held == pytest.approx(0 if source == target else 100 / min(source, target), abs=2 / source)


@pytest.mark.parametrize(
    ("waveform", "rates", "message"),
    [
        (torch.zeros(2, 9), (8_000, 16_000), r"found torch.float32 of shape \(2, 9\)"),
        (torch.zeros(9).double(), (8_000, 16_000), r"found torch.float64"),
        (torch.zeros(9), (0, 16_000), "found 0 and 16000"),
        (torch.zeros(9), (8_000, -1), "found 8000 and -1"),
    ],
)
def test_resample_checks_its_arguments(waveform, rates, message):
    with pytest.raises(ValueError, match=message):
        resample(waveform, *rates)


def refused(path, message):
    """Every way in refuses the file with the same error, which names it."""
    errors = []
    for call in (read, lambda path: list(blocks(path, 0.5))):
        with pytest.raises(AudioError, match=message) as error:
            call(path)
        errors.append(str(error.value))
    assert errors[0] == errors[1]
    assert errors[0].startswith(f"{path}: expected ")
    assert "; found " in errors[0]
    return errors[0]


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "missing.wav", "found nothing there; check the path")
    refused(tmp_path, "found a directory; check the path")
    fifo = tmp_path / "fifo.wav"
    os.mkfifo(fifo)
    refused(fifo, "found no regular file")


def test_what_holds_nothing(tmp_path):
    (tmp_path / "empty.wav").touch()
    refused(tmp_path / "empty.wav", "an empty file")
    refused(write(tmp_path / "none.wav", np.empty(0, np.float32)), "found 0 samples")
    refused(write(tmp_path / "none.ogg", np.empty(0, np.float32)), "found 0 samples")
    stopped = write(tmp_path / "stopped.wav", np.zeros(8000, np.float32))
    patched(stopped, stopped.read_bytes().index(b"data") + 4, bytes(4))
    refused(stopped, "found 0 samples by the header of .* bytes, .*; keep what can be decoded: ffmpeg -i")
    refused(write(tmp_path / "one.wav", tone(1 / 48_000, 48_000), 48_000), "at least one sample at 16000 Hz")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.wav", b"THE QUICK BROWN FOX\n" * 50),
        ("noise.mp3", np.random.default_rng(0).bytes(20_000)),
        ("headerless.raw", b"\x01\x00" * 16_000),
        ("short.wav", b"RIFF\x24\x00\x00\x00WAVEfmt "),
        ("speech.m4a", b"\x00\x00\x00\x1cftypM4A \x00\x00\x02\x00" + bytes(2_000)),
        ("speech.webm", b"\x1aE\xdf\xa3\x9fB\x86\x81\x01" + bytes(2_000)),
        ("speech.aac", b"\xff\xf1\x60\x40\x3e\x7f\xfc\xde\x02\x00Lavc62.28" + bytes(2_000)),
        ("aac called.mp3", b"\xff\xf1\x60\x40\x3e\x7f\xfc\xde\x02\x00Lavc62.28" + bytes(2_000)),
    ],
)
def test_what_libsndfile_cannot_read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    message = refused(path, "expected WAV, FLAC, MP3, Ogg or Opus; found no audio, damaged audio or a kind")
    assert "ffmpeg -i " in message
    with pytest.raises(AudioError):
        header(path)


def test_the_content_counts_and_not_the_name(tmp_path):
    path = write(tmp_path / "a.wav", tone(0.5, 16_000))
    waveform = read(path)
    assert torch.equal(read(path.rename(tmp_path / "a.raw")), waveform)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aiff", "au", "w64", "rf64", "nist"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_what_is_cut_short(tmp_path, suffix, share):
    path = cut(write(tmp_path / f"a.{suffix}", tone(12, 16_000)), share)
    refused(path, "expected (.* of audio, which the header promises; found .*cut short|audio that is whole; found)")


def test_a_cut_ogg_is_shorter(tmp_path):
    """Ogg states no length, and recordings that end in a crash are worth having."""
    path = cut(write(tmp_path / "a.opus", tone(12, 16_000), **FORMATS["opus"]))
    assert 3 < len(read(path)) / SAMPLE_RATE < 8


def test_blocks_come_before_the_fault(tmp_path):
    path = cut(write(tmp_path / "a.flac", tone(25, 16_000)), 0.7)
    found = []
    with pytest.raises(AudioError, match=r"fails after 10\.00 s"):
        found.extend(blocks(path, 1.0))
    # extend keeps what came before the error
    assert len(found) == 10


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_does_not_know_its_length(tmp_path, size):
    path = write(tmp_path / "a.wav", tone(1, 16_000))
    waveform = read(path)
    assert torch.equal(read(patched(path, path.read_bytes().index(b"data") + 4, struct.pack("<I", size))), waveform)


def test_a_flac_from_a_pipe_does_not_know_its_length(tmp_path):
    path = write(tmp_path / "a.flac", tone(12, 16_000))
    waveform = read(path)
    bits_before_total = path.read_bytes()[8 + 13] & 0xF0
    patched(path, 8 + 13, bytes([bits_before_total, 0, 0, 0, 0]))
    assert torch.equal(read(path), waveform)
    assert torch.equal(torch.cat(list(blocks(path, 1.7))), waveform)
    assert header(path).seconds == 12


def test_counting_the_samples_of_a_file_has_an_end(tmp_path, monkeypatch):
    """Some kilobytes of FLAC that state no length can decode to days of silence."""
    stated = write(tmp_path / "stated.flac", torch.zeros(600 * 8_000, 2).numpy(), 8_000)
    unstated = tmp_path / "unstated.flac"
    unstated.write_bytes(stated.read_bytes())
    assert unstated.stat().st_size < 100_000
    patched(unstated, 8 + 13, bytes([unstated.read_bytes()[8 + 13] & 0xF0, 0, 0, 0, 0]))
    decoded = []
    plain = audio._Decoder.read
    monkeypatch.setattr(audio._Decoder, "read", lambda *args, **kw: decoded.append(plain(*args, **kw)) or decoded[-1])
    for path, most_decoded in ((stated, 0), (unstated, 180 * 8_000)):
        decoded.clear()
        with pytest.raises(AudioError, match="at most 2720000 samples; found at least"):
            header(path, 2 * 170 * 8_000)
        assert sum(map(len, decoded)) <= most_decoded
        assert header(path, 2 * 600 * 8_000).seconds == 600


def test_a_header_that_promises_too_much_costs_no_memory(tmp_path):
    path = write(tmp_path / "a.flac", tone(1, 16_000))
    patched(path, 8 + 13, bytes([path.read_bytes()[8 + 13] | 0x0F, 255, 255, 255, 255]))
    refused(path, "cut short")


def test_an_mp3_of_variable_rate_without_a_length_is_not_taken_for_a_shorter_one(tmp_path):
    """A loud beginning and a quiet rest: libsndfile takes the first frame's bit rate for that of the file."""
    rng = np.random.default_rng(0)
    samples = np.concatenate([0.5 * rng.standard_normal(16_000 * 2), np.zeros(16_000 * 20)]).clip(-1, 1)
    path = tmp_path / "a.mp3"
    kwargs = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    write(path, samples.astype(np.float32), **kwargs)
    assert header(path).seconds == pytest.approx(22, abs=0.1)
    content = path.read_bytes()
    assert b"Xing" in content
    at = content.index(b"Xing")
    path.write_bytes(content[:at] + b"gniX" + content[at + 4 :])
    refused(path, r"an MP3 with its length in its header; found none, and \d+ of \d+ bytes left unread")


def test_an_mp3_of_constant_rate_needs_no_length(tmp_path):
    """Nor does it seem cut short or longer than it is when libsndfile counts the picture in its tag as audio."""
    path = write(tmp_path / "a.mp3", tone(2, 16_000), bitrate_mode="CONSTANT", compression_level=0.9)
    content = path.read_bytes()
    assert b"Info" not in content  # there is no room for it at the lowest rate
    waveform = read(path)
    assert 2 <= len(waveform) / SAMPLE_RATE < 2.2
    path.write_bytes(b"ID3\x03\x00\x00" + bytes([0, 1, 1, 1]) + bytes(128 * 128 + 128 + 1) + content)
    with soundfile.SoundFile(path) as file:
        assert file.frames > 2 * len(waveform)
    assert torch.equal(read(path), waveform)
    assert header(path).seconds == len(waveform) / SAMPLE_RATE


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "opus"])
def test_what_was_appended_to_a_stream_is_a_fault_and_not_left_out(tmp_path, suffix):
    """Libsndfile decodes the first only; a tag behind it is no audio."""
    parts = [write(tmp_path / f"{n}.{suffix}", tone(n, 16_000), **FORMATS[suffix]) for n in (1, 2, 30)]
    for last in (1, 2):
        chain = tmp_path / f"chain.{suffix}"
        chain.write_bytes(b"".join(part.read_bytes() for part in (parts[0], parts[last])))
        refused(chain, "expected one stream of audio; found another one behind it")
    if suffix == "mp3":
        chain.write_bytes(parts[0].read_bytes() + b"TAG" + bytes(125))
        assert torch.equal(read(chain), read(parts[0]))


def test_an_mp3_may_count_the_frame_of_its_length(tmp_path):
    path = write(tmp_path / "a.mp3", tone(2, 16_000), bitrate_mode="VARIABLE", compression_level=0.5)
    waveform = read(path)
    at = path.read_bytes().index(b"Xing") + 8
    (n_frames,) = struct.unpack_from(">I", path.read_bytes(), at)
    assert abs(len(read(patched(path, at, struct.pack(">I", n_frames + 1)))) - len(waveform)) <= 1152
    refused(patched(path, at, struct.pack(">I", n_frames + 4)), "cut short")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_what_is_no_number(tmp_path, value, rate):
    samples = tone(1, rate, channels=2)
    samples[rate // 4, 1] = value
    refused(write(tmp_path / "a.wav", samples, rate, subtype="FLOAT"), r"found NaN or infinity at 0\.2500 s")


def test_what_is_louder_than_any_recording(tmp_path):
    """Features are made of squares, and those of 1e29 are no numbers."""
    samples = tone(1, 16_000)
    samples[4_000] = LOUDEST
    assert read(write(tmp_path / "a.wav", samples, subtype="FLOAT")).max() == LOUDEST
    for value, found in ((-1e29, r"-1e\+29"), (20_000.0, r"2e\+04")):
        samples[4_000] = value
        refused(write(tmp_path / "a.wav", samples, subtype="FLOAT"), rf"about -1 to 1; found {found} at 0\.2500 s")


def test_check_finds_what_read_finds(tmp_path):
    path = write(tmp_path / "a.flac", tone(2, 16_000))
    check(path)
    message = refused(cut(path), "expected audio that is whole; found")
    with pytest.raises(AudioError) as error:
        check(path)
    assert str(error.value) == message


def test_a_name_that_is_too_long(tmp_path):
    refused(tmp_path / ("a" * 999), "found 'File name too long'; check path and permissions")


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_speed_is_another_rate(tmp_path, rate):
    path = write(tmp_path / "a.wav", tone(2, rate), rate)
    expected = resample(torch.from_numpy(soundfile.read(path, dtype="float32")[0]), round(1.1 * rate), 16_000)
    assert torch.equal(read(path, speed=1.1), expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_what_may_not_be_read(tmp_path):
    path = write(tmp_path / "a.wav", tone(0.1, 16_000))
    path.chmod(0)
    refused(path, "a file that may be read")


def test_a_block_needs_no_more_of_the_file_than_itself(tmp_path):
    """Decoding stops with the reader: the first block of a file with a late fault costs only that block."""
    samples = tone(60, 16_000)
    samples[-1] = np.nan
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    first = next(iter(blocks(path, 1.0)))
    torch.testing.assert_close(first, torch.from_numpy(samples[:16_000, 0]))
    with pytest.raises(AudioError, match=r"at 59\.9999 s"):
        read(path)
