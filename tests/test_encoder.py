"""The encoder: frames counted as they are made, no influence of padding, and what a frame can see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.encoder import Encoder, Subsampling
from sru_asr.features import mask_padding

N_MELS = 8
FACTORS = (4, 2)
windows = st.one_of(st.just((0, 0)), st.tuples(st.integers(1, 8), st.integers(0, 6)))


def make_encoder(**kwargs):
    torch.manual_seed(0)
    settings = {"channels": 3, "hidden_size": 8, "num_layers": 2, "dropout": 0.0}
    return Encoder(N_MELS, **settings | kwargs).eval()


ENCODERS = {factor: make_encoder(subsampling=factor) for factor in FACTORS}
ENCODER = ENCODERS[4]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def random_features(lengths, frames, seed=0):
    features = torch.randn(len(lengths), frames, N_MELS, generator=torch.Generator().manual_seed(seed))
    return mask_padding(features, torch.tensor(lengths))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any),
    st.sampled_from(FACTORS),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_batch_in_a_row_is_each_of_it_alone(lengths, factor, dtype):
    """In training utterances are convolved one behind another: none may see its neighbour, nor teach it."""
    with torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        module = Subsampling(N_MELS, channels=4, width=6, factor=factor).to(dtype)
        features = random_features(lengths, max(lengths)).to(dtype).clone().requires_grad_()
        found, counts = module(features, torch.tensor(lengths))
        weights = torch.randn(found.shape, dtype=dtype)
        inside = torch.arange(found.shape[1]) < counts[:, None]
        (found * weights * inside[:, :, None]).sum().backward()
        for i, length in enumerate(lengths):
            alone = features.detach()[i : i + 1, :length].clone().requires_grad_()
            with torch.no_grad():
                expected, count = module.eval()(alone, torch.tensor([length]))
            module.train()
            assert count == counts[i] == expected.shape[1]
            torch.testing.assert_close(found[i, :count], expected[0], rtol=1e-5, atol=1e-5)
            if length:
                module(alone, torch.tensor([length]))[0].backward(weights[i : i + 1, :count])
                torch.testing.assert_close(features.grad[i, :length], alone.grad[0], rtol=1e-4, atol=1e-5)
            assert not features.grad[i, length:].any()


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("n_mels", [7, 8, 9, 80])
def test_subsampled_frames_are_counted_as_they_are_made(n_mels, factor):
    subsampling = Subsampling(n_mels, channels=2, width=5, factor=factor)
    for frames in range(70):
        x, lengths = subsampling(torch.zeros(1, frames, n_mels), torch.tensor([frames]))
        assert x.shape == (1, subsampling.lengths(torch.tensor(frames)), 5)
        assert lengths.tolist() == [x.shape[1]] == [-(-frames // factor)]


def test_other_factors_are_refused():
    with pytest.raises(ValueError, match="factor of 2 or 4, found 3"):
        Subsampling(8, 2, 5, factor=3)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=4),
    extra=st.integers(0, 20),
    window=windows,
    factor=st.sampled_from(FACTORS),
    seed=st.integers(0, 1_000),
)
def test_an_utterance_is_encoded_as_it_is_alone(lengths, extra, window, factor, seed):
    encoder = ENCODERS[factor]
    features = random_features(lengths, max(lengths) + extra, seed)
    found, frames = encoder(features, torch.tensor(lengths), *window)
    assert frames.tolist() == [-(-length // factor) for length in lengths]
    for row, length, found_row, n_frames in zip(features, lengths, found, frames.tolist(), strict=True):
        alone, _ = encoder(row[None, :length], torch.tensor([length]), *window)
        assert alone.shape[1] == n_frames
        torch.testing.assert_close(found_row[:n_frames], alone[0], rtol=0, atol=1e-5)


def test_a_window_longer_than_the_utterance_is_full_context():
    features, lengths = random_features([61, 30], 61), torch.tensor([61, 30])
    expected, _ = ENCODER(features, lengths)
    for window in [(16, 0), (16, 3), (100, 7), (1, 16), (5, 15)]:
        found, _ = ENCODER(features, lengths, *window)
        last = 16 if window[0] >= 16 else window[0]  # what the first window emits has seen everything
        torch.testing.assert_close(found[:, :last], expected[:, :last], rtol=0, atol=1e-5)
    different, _ = ENCODER(features, lengths, 5, 3)
    assert not torch.allclose(different, expected, atol=1e-3)


def reach(function, frames):
    """For each frame of what `function` returns the features that change it: (subsampled frames, frames) bool."""
    features = random_features([frames], frames)
    before = function(features)
    columns = []
    for i in range(frames):
        touched = features.clone()
        touched[:, i] += 1
        columns.append(((function(touched) - before).abs().amax(-1) > 1e-7)[0])
    return torch.stack(columns, 1)


@pytest.mark.parametrize(("factor", "past"), [(4, 5), (2, 7)])
def test_a_subsampled_frame_sees_what_it_stands_for_and_a_little_before(factor, past):
    torch.manual_seed(0)
    subsampling = Subsampling(N_MELS, channels=32, width=8, factor=factor)  # of few channels, all may be off
    found = reach(lambda features: subsampling(features, torch.tensor([50]))[0], 50)
    at = torch.arange(50)[None] - factor * torch.arange(-(-50 // factor))[:, None]
    assert torch.equal(found, (at >= -past) & (at < factor))
    assert subsampling.past == past


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("begin", [4, 5, 9])
def test_frames_of_features_that_come_with_their_past_are_the_same(factor, begin):
    """With no others before them: as a stream has them that goes on."""
    torch.manual_seed(0)
    subsampling = Subsampling(N_MELS, channels=4, width=8, factor=factor)
    lengths = torch.tensor([43, 50, factor * begin + 1])
    features = random_features(lengths.tolist(), 50)
    whole, n_frames = subsampling(features, lengths)
    n_before = factor * begin
    some, n_some = subsampling(features[:, n_before - subsampling.past :], lengths - n_before, past=True)
    assert torch.equal(n_some, n_frames - begin)
    for utterance, rest, n in zip(whole, some, n_some, strict=True):
        torch.testing.assert_close(rest[:n], utterance[begin : begin + n], rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("chunk", "lookahead"), [(1, 0), (1, 4), (3, 0), (4, 3), (5, 7)])
def test_a_window_sees_its_lookahead_and_not_beyond(chunk, lookahead, factor):
    found = reach(lambda features: ENCODERS[factor](features, torch.tensor([50]), chunk, lookahead)[0], 50)
    for t, seen in enumerate(found):
        last = min(factor * ((t // chunk + 1) * chunk + lookahead), 50) - 1
        assert seen[last]
        assert not seen[last + 1 :].any()
        assert seen[0]  # and all of the past


def test_full_context_sees_everything():
    assert reach(lambda features: ENCODER(features, torch.tensor([50]))[0], 50).all()


def test_dropout_is_off_in_evaluation():
    features, lengths = random_features([40, 20], 40), torch.tensor([40, 20])
    encoder = make_encoder(dropout=0.5)
    torch.testing.assert_close(encoder(features, lengths)[0], ENCODER(features, lengths)[0], rtol=0, atol=0)
    encoder.train()
    assert not torch.equal(encoder(features, lengths)[0], encoder(features, lengths)[0])


@pytest.mark.parametrize("window", [(-1, 0), (2, -1), (0, 3)])
def test_windows_that_mean_nothing_are_refused(window):
    with pytest.raises(ValueError, match="chunk >= 1 and lookahead >= 0"):
        ENCODER(random_features([20], 20), torch.tensor([20]), *window)
