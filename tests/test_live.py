"""Captions while somebody speaks: the words of offline recognition, in order, final after a pause."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.decoding import Decoding
from sru_asr.lexicon import Lexicon
from sru_asr.live import Live
from sru_asr.model import ModelConfig, Recognizer
from sru_asr.scorer import Scorer
from sru_asr.text import BLANK, CharTokenizer

CHARS = CharTokenizer("AB ")
A, B, SPACE = 1, 2, 3


def model(tokenizer):
    """A small one."""
    torch.manual_seed(0)
    return Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=1), tokenizer).eval()


MODEL = model(CHARS)


def saying(tokens):
    """Log-probabilities under which these are the best, (frames, vocab)."""
    log_probs = torch.full((len(tokens), CHARS.vocab_size), -9.0)
    for row, token in zip(log_probs, tokens, strict=True):
        row[token] = -0.1
    return log_probs


def live(**options):
    return Live(MODEL, 4, 2, **options)


def heard(session, tokens, sizes=()):
    """All captions of frames that come in pieces of these sizes, then the rest."""
    captions = []
    for piece in saying(tokens).split([*sizes, len(tokens) - sum(sizes)]):
        captions += session.take(piece)
    return captions + session.finish()


def test_one_word_that_never_ends_is_written_down_in_parts():
    captions = heard(live(longest_seconds=0.4), [A, BLANK, B, BLANK] * 20)
    parts = [caption.text for caption in captions if caption.final]
    assert "".join(parts) == "AB" * 20
    assert max(map(len, parts)) <= 6


def test_what_a_search_takes_back_is_closed():
    """The lexicon knows words that begin as what is heard, but it is none of them."""
    scorer = Scorer(lexicon=Lexicon(["ABAB"]))
    frames = [A, BLANK, B, *[BLANK] * 12]

    def captions(*sizes):
        found = heard(live(pause_seconds=0.2, decoding=Decoding(scorer, 4)), frames, sizes)
        return [(caption.text, caption.final) for caption in found]

    assert captions(2, 5) == [("A", False), ("AB", False), ("", True)]
    assert captions(*[1] * 15) == [("A", False), ("AB", False), ("", True)]
    assert captions() == []  # nothing had been shown


def test_the_last_word_counts_when_a_stream_ends():
    """As it does offline: while the text may go on, a word that may not be whole has no bonus yet."""
    frames = saying([BLANK, BLANK, BLANK])
    frames[1, A] = -1.0
    session = live(decoding=Decoding(Scorer(word_bonus=2.0), 4))
    assert session.take(frames) == []
    assert [(caption.text, caption.final) for caption in session.finish()] == [("A", True)]


def test_a_caption_grows_and_is_final_after_a_pause():
    session = live(pause_seconds=0.2)  # five frames
    assert session.take(saying([BLANK, A, A])) != []
    (caption,) = session.take(saying([BLANK, A, SPACE]))
    assert (caption.text, caption.final) == ("AA", False)
    assert session.take(saying([BLANK, BLANK, BLANK])) == []
    (caption,) = session.take(saying([BLANK, B, B, BLANK]))
    assert (caption.text, caption.final) == ("AA B", False)
    assert [word[:3] for word in caption.words] == [("AA", 0.0, 0.32), ("B", 0.32, 0.52)]
    assert (caption.start, caption.end) == (0.0, 0.52)
    assert session.take(saying([BLANK] * 2)) == []
    (caption,) = session.take(saying([BLANK]))
    assert (caption.text, caption.final) == ("AA B", True)
    assert session.take(saying([BLANK] * 50)) == []
    (caption,) = session.take(saying([A]))
    assert [word[:3] for word in caption.words] == [("A", 2.56, 2.68)]
    (caption,) = session.finish()
    assert (caption.text, caption.final) == ("A", True)


tokens = st.lists(st.sampled_from([BLANK] * 4 + [A, B, SPACE]), max_size=80)


@settings(deadline=None)
@given(tokens, st.lists(st.integers(0, 80), max_size=6), st.integers(1, 12), st.integers(1, 60))
def test_captions_do_not_depend_on_pieces_and_lose_nothing(said, cuts, pause, longest):
    edges = [0, *sorted(min(cut, len(said)) for cut in cuts)]
    options = {"pause_seconds": 0.04 * pause, "longest_seconds": 0.04 * longest}
    in_pieces = heard(live(**options), said, [stop - start for start, stop in pairwise(edges)])
    frame_by_frame = heard(live(**options), said, [1] * len(said))
    final = [caption for caption in in_pieces if caption.final]
    assert final == [caption for caption in frame_by_frame if caption.final]
    path = [token for token, before in zip(said, [BLANK, *said], strict=False) if token not in (BLANK, before)]
    letters = "".join(word.text for caption in final for word in caption.words)
    assert letters == CHARS.decode(path).replace(" ", "")  # a pause parts words that no space did
    starts = [word.start for caption in final for word in caption.words]
    assert starts == sorted(starts)
    # A word that has been shown stays, but for the last, which may grow.
    for before, after in pairwise(frame_by_frame):
        if not before.final:
            n = len(before.words)
            assert [w.text for w in after.words[: n - 1]] == [w.text for w in before.words[: n - 1]] or after.final
            if len(after.words) >= n:
                assert after.words[n - 1].text.startswith(before.words[n - 1].text)


def test_who_never_pauses_is_written_down_in_parts_between_words():
    session = live(longest_seconds=1.0)
    captions = heard(session, [A, B, SPACE] * 100)
    final = [caption for caption in captions if caption.final]
    assert {word.text for caption in final for word in caption.words} == {"AB"}
    assert sum(len(caption.words) for caption in final) == 100
    assert max(caption.end - caption.start for caption in captions) < 1.2
    assert len(session._decoder.path.tokens) == 0


def test_live_says_what_offline_recognition_through_the_same_windows_says():
    torch.manual_seed(3)
    recogniser = model(CharTokenizer())
    with torch.no_grad():
        recogniser.ctc.linear.weight *= 8
    waveform = 0.1 * torch.randn(40_000) * torch.rand(40).repeat_interleave(1_000)
    session = Live(recogniser, 3, 2, pause_seconds=60)
    captions = [caption for piece in waveform.split(777) for caption in session.push(piece)] + session.finish()
    with torch.inference_mode():
        log_probs, _ = recogniser(waveform[None], torch.tensor([40_000]), 3, 2)
    best = log_probs[0].argmax(-1).tolist()
    path = [token for token, before in zip(best, [BLANK, *best], strict=False) if token not in (BLANK, before)]
    expected = " ".join(recogniser.tokenizer.decode(path).split())
    assert len(expected) > 10
    assert captions[-1].final
    assert captions[-1].text == expected


@pytest.mark.parametrize("options", [{"pause_seconds": 0.08}, {"longest_seconds": 0.4}])
def test_words_of_one_caption_do_not_overlap_those_of_the_next(options):
    captions = live(**options)
    spoken = [A, BLANK, BLANK, BLANK, SPACE, B, BLANK, SPACE, A, BLANK, BLANK, BLANK] * 5
    finals = [caption for caption in captions.take(saying(spoken)) if caption.final]
    assert len(finals) > 3
    words = [word for caption in finals for word in caption.words]
    assert all(a.end <= b.start <= b.end for a, b in pairwise(words))


def test_silence_has_no_captions():
    session = live()
    assert session.push(torch.zeros(0)) == []
    assert heard(session, [BLANK] * 100 + [SPACE] + [BLANK] * 100) == []


@pytest.mark.parametrize("options", [{"pause_seconds": 0}, {"longest_seconds": -1}, {"pause_seconds": float("inf")}])
def test_times_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match="expected finite times above 0 s"):
        live(**options)
