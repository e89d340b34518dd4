"""Warping of features: against features of sounds that are themselves shifted, and against numpy's interpolation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sru_asr.features import LogMel
from sru_asr.warp import Warp


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    tempo=st.floats(1.01, 3),
    vocal_tract=st.sampled_from([1.0, 1.2]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_lengths_stay_within_the_tempo_and_behind_them_is_nothing(
    lengths: list[int], tempo: float, vocal_tract: float, seed: int
) -> None:
    torch.manual_seed(seed)
    before = torch.tensor(lengths)
    features = torch.rand(len(lengths), max(lengths), 8) + 1
    for row, length in zip(features, lengths, strict=True):
        row[length:] = 0
    warped, after = Warp(tempo, vocal_tract).train()(features, before)
    assert warped.shape == (len(lengths), after.max(), 8)
    for row, length, was in zip(warped, after.tolist(), lengths, strict=True):
        assert (was > 0) == (length > 0)
        assert was / tempo - 0.5 <= length <= max(was * tempo + 0.5, 1)
        assert (row[:length] >= 1 - 1e-5).all()
        assert not row[length:].any()


@given(length=st.integers(2, 50), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_time_is_stretched_along_straight_lines_from_first_to_last_frame(length: int, seed: int) -> None:
    torch.manual_seed(seed)
    features = torch.randn(2, length + 3, 4, dtype=torch.float64)
    lengths = torch.tensor([length, length + 3])
    warped, after = Warp(2.0, 1.0).train()(features, lengths)
    for row, was, has, n in zip(warped, features, lengths.tolist(), after.tolist(), strict=True):
        at = np.linspace(0, has - 1, n) if n > 1 else np.zeros(1)
        for band in range(4):
            expected = np.interp(at, np.arange(has), was[:has, band].numpy())
            np.testing.assert_allclose(row[:n, band], expected, atol=1e-4)


@pytest.mark.parametrize("hertz", [500, 900, 1400, 3000])
def test_a_tone_moves_to_where_its_warped_frequency_lies(hertz: float, monkeypatch: pytest.MonkeyPatch) -> None:
    mel = LogMel()
    time = torch.arange(4000) / 16000
    tones = torch.stack([torch.sin(2 * math.pi * hertz * factor * time) for factor in (1 / 0.85, 1, 1 / 1.2)])
    features = mel.log_mel(tones)
    lengths = torch.tensor([features.shape[1]] * 2)
    monkeypatch.setattr(Warp, "_factors", staticmethod(lambda lengths, most: torch.tensor([0.85, 1.2])))
    warp = Warp(1.0, 1.2).train()
    warped, _ = warp(features[1].repeat(2, 1, 1), lengths)
    # What was at f is where the sound of f / factor has it, up to a band.
    for row, sounded in zip(warped, features[[0, 2]], strict=True):
        assert abs(_peak(row) - _peak(sounded)) <= 1
        assert abs(_peak(row) - _peak(features[1])) >= 2


def _peak(features: Tensor) -> int:
    return int(features[10].argmax())


def test_constant_spectra_stay_as_they_are() -> None:
    features = torch.linspace(-1, 1, 5)[:, None].expand(1, 5, 80)
    warped, lengths = Warp(1.0, 1.5).train()(features, torch.tensor([5]))
    torch.testing.assert_close(warped, features)
    assert lengths.tolist() == [5]


def test_utterances_get_factors_of_their_own_from_the_seed_alone() -> None:
    features, lengths = torch.randn(8, 200, 80), torch.full((8,), 200)
    warp = Warp(1.5, 1.2).train()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(warp(features, lengths))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].tolist() != results[2][1].tolist()
    assert len(set(results[0][1].tolist())) > 4


@pytest.mark.parametrize("warp", [Warp(2.0, 1.2).eval(), Warp(1.0, 1.0).train()])
def test_nothing_happens_outside_of_training_or_with_factors_of_one(warp: Warp) -> None:
    features, lengths = torch.randn(2, 30, 80), torch.tensor([30, 30])
    warped, after = warp(features, lengths)
    assert torch.equal(warped, features)
    assert torch.equal(after, lengths)


def test_a_batch_without_frames_passes() -> None:
    warped, lengths = Warp().train()(torch.zeros(2, 0, 80), torch.zeros(2, dtype=torch.int64))
    assert warped.shape == (2, 0, 80)
    assert lengths.tolist() == [0, 0]


@pytest.mark.parametrize(("tempo", "vocal_tract"), [(0.9, 1.1), (5, 1.1), (1.1, 0.9), (1.1, 3), (math.nan, 1.1)])
def test_factors_out_of_range_are_refused(tempo: float, vocal_tract: float) -> None:
    with pytest.raises(ValueError, match="tempo"):
        Warp(tempo, vocal_tract)
