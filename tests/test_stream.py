"""Live equals offline: whatever the pieces the audio comes in, and however long it is."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recipe_scripts import load_prepare

from sru_asr.audio import AudioError
from sru_asr.decode import greedy
from sru_asr.manifest import load_manifest
from sru_asr.model import ModelConfig, Recognizer, load_model
from sru_asr.stream import Stream, _alike, advance
from sru_asr.text import CharTokenizer

AN4 = Path(__file__).resolve().parents[2] / "shared/corpora/an4"


def tiny_model(subsampling):
    torch.manual_seed(0)
    config = ModelConfig(channels=4, hidden_size=16, num_layers=2, subsampling=subsampling)
    model = Recognizer(config, CharTokenizer())
    model.features.mean.fill_(-5.0)
    model.features.scale.fill_(0.5)
    return model.eval()


MODELS = {subsampling: tiny_model(subsampling) for subsampling in (4, 2)}
MODEL = MODELS[4]


def speech(n_samples, seed=0):
    """Noise whose loudness changes, so that frames differ."""
    generator = torch.Generator().manual_seed(seed)
    loudness = torch.rand(n_samples // 1_000 + 1, generator=generator).repeat_interleave(1_000)[:n_samples]
    return 0.3 * loudness * torch.randn(n_samples, generator=generator)


def offline(waveform, chunk=0, lookahead=0, model=MODEL):
    with torch.inference_mode():
        log_probs, lengths = model(waveform[None], torch.tensor([len(waveform)]), chunk, lookahead)
    assert lengths.tolist() == [log_probs.shape[1]]
    return log_probs[0]


def live(waveform, chunk, lookahead, sizes, model=MODEL):
    """Push pieces of these sizes, then the rest; returns all that was emitted, and checks that it comes in time.

    In time is when the last sample of the window is there, and not later.
    """
    stream = Stream(model, chunk, lookahead)
    emitted, n_pushed, n_emitted = [], 0, 0
    for piece in waveform.split([*sizes, len(waveform) - sum(sizes)]):
        emitted.append(stream.push(piece))
        n_pushed += len(piece)
        assert stream.samples == n_pushed
        n_ready = n_pushed // (160 * model.config.subsampling)
        n_emitted += len(emitted[-1])
        assert n_emitted == max(n_ready - lookahead, 0) // chunk * chunk
    return torch.cat([*emitted, stream.finish()])


@given(st.integers(1, 6), st.integers(0, 6), st.lists(st.integers(1, 3_000), max_size=8))
def test_a_stream_knows_how_much_is_missing_to_a_window(chunk, lookahead, sizes):
    stream = Stream(MODEL, chunk, lookahead)
    for size in sizes:
        stream.push(speech(size))
    missing = stream.missing
    assert missing > 0
    assert len(stream.push(speech(missing - 1))) == 0
    assert stream.missing == 1
    assert len(stream.push(speech(1))) == chunk


@st.composite
def utterances(draw):
    """A length, with what is special about it more often than by chance, and pieces that sum to at most that."""
    special = st.sampled_from([0, 1, 159, 160, 161, 639, 640, 641, 1_279, 1_280, 1_281, 16_000])
    n_samples = draw(st.one_of(special, st.integers(0, 4_000), st.integers(0, 40_000)))
    cuts = draw(st.lists(st.integers(0, n_samples), max_size=30))
    edges = [0, *sorted(cuts)]
    return n_samples, [stop - start for start, stop in pairwise(edges)]


@settings(deadline=None, max_examples=100)
@given(utterances(), st.integers(1, 30), st.integers(0, 20), st.integers(0, 1_000), st.sampled_from([4, 2]))
@example((16_000, []), 1, 0, 0, 4)
@example((16_000, []), 4, 8, 0, 2)
@example((16_000, [400] * 40), 1_000, 1_000, 0, 4)
def test_live_equals_offline(utterance, chunk, lookahead, seed, subsampling):
    n_samples, sizes = utterance
    waveform = speech(n_samples, seed)
    expected = offline(waveform, chunk, lookahead, MODELS[subsampling])
    found = live(waveform, chunk, lookahead, sizes, MODELS[subsampling])
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 160, 400, 1_600])
def test_live_equals_offline_in_pieces_of_one_size(size):
    waveform = speech(6_000)
    found = live(waveform, 3, 2, [size] * (len(waveform) // size))
    torch.testing.assert_close(found, offline(waveform, 3, 2), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not AN4.is_dir(), reason=f"AN4 is not at {AN4}")
def test_people_are_heard_live_as_offline(tmp_path):
    """AN4's development speakers by the model that ships, in pieces drawn at random."""
    model, rng = load_model(), random.Random(0)
    cuts = list(load_manifest(load_prepare("an4").prepare(AN4, tmp_path, Path())["dev"]))[::4]
    said = 0
    for number, cut in enumerate(cuts):
        window = ((1, 7), (4, 4), (2, 14), (7, 1), (1, 3))[number % 5]
        waveform = torch.from_numpy(cut.load_audio()[0])
        edges = [0, *sorted(rng.randrange(len(waveform) + 1) for _ in range(rng.randrange(40)))]
        expected = offline(waveform, *window, model)
        found = live(waveform, *window, [stop - start for start, stop in pairwise(edges)], model)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        live_path, offline_path = greedy(torch.stack([found, expected]), torch.tensor([len(found)] * 2))
        assert live_path.tokens == offline_path.tokens
        assert live_path.frames == offline_path.frames
        said += len(live_path.tokens) > 0
    assert said == 33


def test_a_chunk_as_long_as_the_utterance_is_full_context():
    waveform = speech(30_000)
    torch.testing.assert_close(live(waveform, 100, 0, [7_000] * 4), offline(waveform), rtol=0, atol=1e-4)
    assert not torch.allclose(live(waveform, 5, 2, []), offline(waveform), atol=1e-2)


def test_streams_do_not_meet():
    first, second = speech(9_000, seed=1), speech(9_000, seed=2)
    streams = [Stream(MODEL, 4, 2), Stream(MODEL, 4, 2)]
    emitted = [[], []]
    for pieces in zip(first.split(900), second.split(900), strict=True):
        for stream, piece, found in zip(streams, pieces, emitted, strict=True):
            found.append(stream.push(piece))
    for stream, waveform, found in zip(streams, (first, second), emitted, strict=True):
        found = torch.cat([*found, stream.finish()])
        torch.testing.assert_close(found, offline(waveform, 4, 2), rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(utterances(), st.sampled_from([(1, 0), (1, 7), (4, 4), (9, 2)]), st.integers(0, 5)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 1_000),
    st.sampled_from([4, 2]),
)
def test_many_streams_advance_together_as_each_would_alone(sessions, seed, subsampling):
    """Of all lengths and windows, begun at different times, in pieces of their own, ended when they are over."""
    model = MODELS[subsampling]
    waveforms = [speech(n_samples, seed + i) for i, ((n_samples, _), _, _) in enumerate(sessions)]
    streams = [Stream(model, *window) for _, window, _ in sessions]
    plans = [
        [None] * start + list(waveform.split([*sizes, len(waveform) - sum(sizes)])) + ["end"]
        for waveform, ((_, sizes), _, start) in zip(waveforms, sessions, strict=True)
    ]
    said = [[] for _ in streams]
    for turn in range(max(map(len, plans))):
        for stream, plan in zip(streams, plans, strict=True):
            piece = plan[turn] if turn < len(plan) else None
            if piece is not None:
                stream.end() if isinstance(piece, str) else stream.accept(piece)
        for found, log_probs in zip(said, advance(streams), strict=True):
            found.append(log_probs)
    for waveform, (_, window, _), found in zip(waveforms, sessions, said, strict=True):
        torch.testing.assert_close(torch.cat(found), offline(waveform, *window, model), rtol=0, atol=1e-4)


def test_one_stream_with_a_long_window_makes_no_other_longer():
    """Features and convolutions of one batch are padded to its longest."""
    streams = [Stream(MODEL, 2, 2) for _ in range(5)] + [Stream(MODEL, 100, 100)]
    for stream in streams:
        stream.accept(speech(8_000 if stream.chunk == 2 else 160_000))
    assert [[stream.chunk for stream in group] for group in _alike(streams)] == [[2] * 5, [100]]
    assert _alike([]) == []


def test_streams_of_two_models_or_twice_the_same_do_not_advance_together():
    stream = Stream(MODEL, 4, 2)
    for streams in ([stream, Stream(MODELS[2], 4, 2)], [stream, stream]):
        with pytest.raises(ValueError, match="streams of one model, each of them once"):
            advance(streams)
    assert advance([]) == []


@settings(deadline=None, max_examples=40)
@given(utterances(), st.integers(1, 9), st.integers(0, 9), st.integers(0, 30), st.booleans())
def test_a_saved_stream_goes_on_elsewhere(utterance, chunk, lookahead, when, computed):
    n_samples, sizes = utterance
    waveform = speech(n_samples)
    stream, said = Stream(MODEL, chunk, lookahead), []
    for number, piece in enumerate(waveform.split([*sizes, len(waveform) - sum(sizes)])):
        if number == when:
            if not computed:
                stream.accept(piece[:1])
                piece = piece[1:]
            stream = Stream.load(MODEL, stream.save())
        said.append(stream.push(piece))
    expected = offline(waveform, chunk, lookahead)
    torch.testing.assert_close(torch.cat([*said, stream.finish()]), expected, rtol=0, atol=1e-4)


def test_what_is_saved_is_of_constant_size():
    stream = Stream(MODEL, 5, 3)
    sizes = set()
    for piece in speech(60 * 16_000).split(8 * 640):
        stream.push(piece)
        sizes.add(len(stream.save()))
    assert max(sizes) - min(sizes) < 5 * 128 + 64  # the frames of a chunk, and padding
    assert max(sizes) < 40_000
    stream.finish()
    with pytest.raises(RuntimeError, match="make a new one"):
        stream.save()


def tampered(**changes):
    """A stream's bytes with other tensors in them."""
    stream = Stream(MODEL, 5, 3)
    stream.push(speech(20_000))
    tensors = safetensors.torch.load(stream.save())
    for name, change in changes.items():
        tensors[name] = change(tensors[name])
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None})


@pytest.mark.parametrize(
    "saved",
    [
        b"",
        b"{}",
        bytes(range(256)) * 9,
        tampered()[:-50],
        tampered(numbers=lambda _: None),
        tampered(numbers=lambda numbers: numbers[:4]),
        tampered(numbers=lambda numbers: numbers * torch.tensor([0, 1, 1, 1, 1])),
        tampered(numbers=lambda numbers: numbers + torch.tensor([0, 0, 1, 0, 0])),
        tampered(numbers=lambda numbers: numbers + torch.tensor([0, 0, 0, 0, 99])),
        tampered(numbers=lambda numbers: numbers.neg()),
        tampered(numbers=lambda numbers: numbers.double()),
        tampered(audio=lambda audio: audio[1:]),
        tampered(audio=lambda audio: audio * torch.nan),
        tampered(pending=lambda pending: pending[:, 1:]),
        tampered(pending=lambda pending: pending * torch.inf),
        tampered(pending=lambda pending: pending[:0]),
        tampered(pending=lambda pending: pending.repeat(99, 1)),
        tampered(state=lambda state: state[:1]),
        tampered(state=lambda state: state[None]),
    ],
)
def test_what_no_stream_saved_is_refused(saved):
    with pytest.raises(ValueError, match="expected"):
        Stream.load(MODEL, saved)


def held_bytes(stream):
    """What the tensors of a stream keep alive, views with all of what they are views of."""
    return sum(t.untyped_storage().nbytes() for t in vars(stream).values() if isinstance(t, torch.Tensor))


def test_a_long_stream_holds_no_more_than_a_short_one():
    stream = Stream(MODEL, 5, 3)
    held = []
    for piece in speech(60 * 16_000).split(1_600):
        stream.push(piece)
        held.append(held_bytes(stream))
    assert max(held) == max(held[:50])
    # Its audio: a piece, and the frames (of 640 samples) that the next one sees. Its pending frames. Its state.
    assert max(held) < 4 * (1_600 + 5 * 640 + 400 + 32 * (8 + 3) + 2 * 16)


def test_a_long_push_is_not_kept():
    stream = Stream(MODEL, 5, 3)
    stream.push(speech(60 * 16_000))
    assert held_bytes(stream) < 4 * (6 * 640 + 400 + 32 * (8 + 3) + 2 * 16)


def test_a_finished_stream_says_so():
    stream = Stream(MODEL, 5, 3)
    stream.push(speech(3_000))
    stream.finish()
    with pytest.raises(RuntimeError, match="make a new one"):
        stream.push(speech(100))
    with pytest.raises(RuntimeError, match="make a new one"):
        stream.finish()


def test_a_stream_of_nothing_emits_nothing():
    stream = Stream(MODEL, 5, 3)
    assert stream.push(torch.zeros(0)).shape == (0, MODEL.tokenizer.vocab_size)
    assert stream.finish().shape == (0, MODEL.tokenizer.vocab_size)


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (torch.zeros(1, 100), r"\(samples,\).*found torch.float32 of shape \(1, 100\)"),
        (torch.zeros(100, dtype=torch.int16), "found torch.int16"),
        (torch.tensor([0.0, float("nan")]), "NaN or infinity"),
        (torch.tensor([0.0, float("inf")]), "NaN or infinity"),
        ([0.0, 0.1], "torch.Tensor, found list"),
    ],
)
def test_what_is_no_waveform_is_refused_and_leaves_no_trace(piece, message):
    waveform = speech(5_000)
    stream = Stream(MODEL, 2, 1)
    emitted = [stream.push(waveform[:2_000])]
    with pytest.raises(AudioError, match=message):
        stream.push(piece)
    emitted += [stream.push(waveform[2_000:].double()), stream.finish()]
    torch.testing.assert_close(torch.cat(emitted), offline(waveform, 2, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("window", [(0, 0), (-1, 0), (1, -1)])
def test_windows_that_mean_nothing_are_refused(window):
    with pytest.raises(ValueError, match="chunk >= 1 and lookahead >= 0"):
        Stream(MODEL, *window)
    with pytest.raises(ValueError, match="whole numbers of frames"):
        Stream(MODEL, 1.5, 1)


def test_torchs_default_dtype_does_not_matter():
    """Science sets it to float64: models that were loaded then could not be used, and streams of others failed."""
    model, waveform = load_model(), torch.randn(8_000)
    expected = [Stream(model, 4, 4).push(waveform), model.transcribe(waveform)]
    torch.set_default_dtype(torch.float64)
    try:
        for one in (model, load_model()):
            stream = Stream(one, 4, 4)
            torch.testing.assert_close(stream.push(waveform), expected[0])
            assert one.transcribe(waveform).text == expected[1].text
            assert stream.push(waveform[:0]).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
