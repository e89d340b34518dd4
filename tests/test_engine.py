"""Sessions that share a model: each gets what it would get alone; what one does wrong the others do not notice."""

import asyncio
import time

import pytest
import torch

from sru_asr.live import Caption, Live
from sru_asr.model import ModelConfig, Recognizer
from sru_asr.precision import arithmetic
from sru_asr.serve import engine as module
from sru_asr.serve.engine import Busy, Engine, Said, SessionError
from sru_asr.source import Pcm
from sru_asr.stream import Stream
from sru_asr.text import CharTokenizer


def talkative_model():
    """A small one that says much."""
    torch.manual_seed(3)
    model = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=2), CharTokenizer())
    model.features.mean.fill_(-5.0)
    model.features.scale.fill_(0.5)
    with torch.no_grad():
        model.ctc.linear.weight *= 8
    return model.eval()


MODEL = talkative_model()


def speech(seconds, seed):
    """In steps of 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    n_samples = int(16_000 * seconds)
    loudness = torch.rand(n_samples // 1_000 + 1, generator=generator).repeat_interleave(1_000)[:n_samples]
    loud = 0.3 * loudness * torch.randn(n_samples, generator=generator)
    return (loud * 32_768).trunc().clamp(-32_768, 32_767) / 32_768


def pcm(waveform):
    return (waveform * 32_768).clamp(-32_768, 32_767).numpy().astype("<i2").tobytes()


def silence(n_samples):
    return bytes(2 * n_samples)


def pieces(of, size):
    return [of[i : i + size] for i in range(0, len(of), size)]


def alone(waveform, chunk, lookahead):
    """The final captions; last bits depend on what is computed together, and may round to other confidences."""
    live = Live(MODEL, chunk, lookahead)
    finals = [caption for caption in [*live.push(waveform), *live.finish()] if caption.final]
    for words in (caption.words for caption in finals):
        words[:] = [word._replace(confidence=pytest.approx(word.confidence, abs=2e-3)) for word in words]
    return finals


async def everything(session):
    captions = []
    while (caption := await session.next()) is not None:
        captions.append(caption)
    return captions


def in_engine(talk, **options):
    """Run a coroutine with an engine that computes."""

    async def main():
        engine = Engine(MODEL, **options)
        running = asyncio.create_task(engine.run())
        try:
            return await asyncio.wait_for(talk(engine), 60)
        finally:
            running.cancel()

    return asyncio.run(main())


def test_many_sessions_get_what_each_would_get_alone():
    rounds = []

    async def speak(engine, number):
        samples = pcm(speech(1 + number % 4, number))
        session = engine.open(*((2, 6), (4, 4))[number % 2])

        async def send():
            for piece in pieces(samples, 1_001 + 600 * number):  # half a sample at the end of some
                await session.send(piece)
                await asyncio.sleep(0.001 * (number % 3))
            session.end()

        _, captions = await asyncio.gather(send(), everything(session))
        assert session.seconds == len(samples) / 32_000
        engine.close(session)
        return captions

    async def talk(engine):
        return await asyncio.gather(*(speak(engine, number) for number in range(12)))

    for number, captions in enumerate(in_engine(talk, count=rounds.append)):
        expected = alone(speech(1 + number % 4, number), *((2, 6), (4, 4))[number % 2])
        assert expected
        assert [caption for caption in captions if caption.final] == expected
    assert max(len(batch.lag_seconds) for batch in rounds) > 3
    assert all(0 <= lag < 60 for batch in rounds for lag in batch.lag_seconds)
    assert sum(batch.audio_seconds for batch in rounds) == pytest.approx(sum(1 + number % 4 for number in range(12)))


def test_samples_of_another_rate_are_resampled():
    rounds = []

    async def talk(engine):
        session = engine.open(2, 6, rate=44_100)
        for piece in pieces(pcm(speech(4, 0)), 2 * 1_764):  # as many as 40 ms of them
            await session.send(piece)
            await asyncio.sleep(0.001)
        session.end()
        return await everything(session)

    captions = in_engine(talk, count=rounds.append)
    reader = Pcm(44_100)
    expected = alone(torch.cat([reader.push(pcm(speech(4, 0))), reader.finish()]), 2, 6)
    assert expected
    assert [caption for caption in captions if caption.final] == expected
    assert sum(batch.audio_seconds for batch in rounds) == pytest.approx(4 * 16_000 / 44_100)


def computed(engine, session):
    """One turn of a session, if it is due, here and now: whether a window was computed."""
    if not session._due():
        return None
    turn = session._take()
    said = engine._compute([session], [turn])[0]
    session._deliver(said, turn.ended)
    return said.computed


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 44_100, 48_000])
def test_resampled_windows_are_computed_with_the_message_that_completes_them(rate):
    """And others are not converted one by one, as they were where a resampler held back something else each time."""

    async def talk():
        engine = Engine(MODEL)
        session, live, reader = engine.open(4, 4, rate=rate), Live(MODEL, 4, 4), Pcm(rate)
        windows, turns = 0, []
        for piece in pieces(pcm(speech(6 * rate / 16_000, 0)), 2 * round(0.04 * rate)):
            before = live._decoder.n_frames
            live.push(reader.push(piece))
            windows += live._decoder.n_frames > before
            await session.send(piece)
            turns += [computed(engine, session)]
            assert session._live._decoder.n_frames == live._decoder.n_frames
        assert turns.count(True) == windows > 5
        assert turns.count(False) == 0

    asyncio.run(talk())


@pytest.mark.parametrize("rate", [1_000, 8_000, 44_100, 48_000])
def test_what_a_resampler_holds_back_is_waited_for(rate):
    """Between two messages sessions had turns without end, thousands a second, in which there was nothing to do."""
    rounds = []

    async def talk(engine):
        session = engine.open(2, 6, rate=rate)
        sent = 0
        for piece in pieces(pcm(speech(1.5 * rate / 16_000, 0)), 2 * round(0.04 * rate)):
            await session.send(piece)
            sent += 1
            await asyncio.sleep(0.005)
        while not rounds:  # the first may take longer
            await asyncio.sleep(0.005)
        return sent

    sent = in_engine(talk, count=rounds.append)
    assert 0 < len(rounds) <= sent


def test_a_window_may_begin_amid_a_sample():
    async def talk():
        engine = Engine(MODEL)
        session = engine.open(2, 6)
        await session.send(bytes(2 * 8 * 640 + 1))
        assert computed(engine, session)
        await session.send(bytes(2 * 2 * 640 - 2))
        assert computed(engine, session) is None
        await session.send(bytes(1))
        assert computed(engine, session)

    asyncio.run(talk())


def test_what_waits_is_bounded_at_every_rate():
    async def talk():
        engine = Engine(MODEL)
        for rate in (1_000, 384_000):
            session = engine.open(2, 6, rate=rate)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(session.send(bytes(1 << 24)), 0.05)
            most = min(10 * 2 * rate, 1 << 20)
            assert most < session._waiting <= most + rate

    asyncio.run(talk())


def test_a_batch_that_fails_is_an_error_for_its_sessions_and_the_engine_goes_on(monkeypatch):
    async def talk(engine):
        with monkeypatch.context() as patch:
            patch.setattr(module, "advance", lambda streams: 1 / 0)
            first = engine.open(2, 6)
            await first.send(pcm(speech(1, 0)))
            with pytest.raises(SessionError, match="internal error"):
                await everything(first)
        second = engine.open(2, 6)
        await second.send(pcm(speech(1, 0)))
        second.end()
        return await everything(second)

    captions = in_engine(talk)
    assert [caption for caption in captions if caption.final] == alone(speech(1, 0), 2, 6)


def test_audio_that_cannot_be_taken_in_ends_its_own_session_only(monkeypatch):
    plain = Stream.accept

    def accept(stream, waveform):
        if waveform[0] == 0.25:
            raise MemoryError("no room")
        plain(stream, waveform)

    monkeypatch.setattr(Stream, "accept", accept)

    async def talk(engine):
        good, bad = engine.open(2, 6), engine.open(2, 6)
        await bad.send(pcm(torch.full((8_000,), 0.25)))
        await good.send(pcm(speech(1, 0)))
        good.end()
        with pytest.raises(SessionError, match="internal error"):
            await everything(bad)
        return await everything(good)

    captions = in_engine(talk)
    assert [caption for caption in captions if caption.final] == alone(speech(1, 0), 2, 6)


def test_an_engine_that_fails_says_so():
    def count(batch):
        raise ZeroDivisionError

    async def talk(engine):
        session, other = engine.open(2, 6), engine.open(2, 6)
        await session.send(pcm(speech(1, 0)))
        for ended in (session, other):
            with pytest.raises(SessionError, match="internal error"):
                await everything(ended)
        assert engine.failed
        with pytest.raises(Busy, match="has failed"):
            engine.open(2, 6)

    in_engine(talk, count=count)


def test_who_sends_too_much_waits():
    async def talk(engine):
        session = engine.open(2, 6)
        engine._work = asyncio.Event()  # it sleeps
        session._wake = lambda _: None
        await session.send(pcm(speech(10.5, 0)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.send(pcm(speech(1, 0))), 0.05)
        engine.close(session)
        with pytest.raises(SessionError, match="closed"):
            await session.send(pcm(speech(1, 0)))

    in_engine(talk)


def test_a_session_has_its_turn_when_a_window_is_there():
    rounds = []

    async def talk(engine):
        session = engine.open(2, 6)  # of 640 samples each
        for piece in pieces(pcm(speech(1, 0)), 200):
            await session.send(piece)
            await asyncio.sleep(0.001)
        session.end()
        await everything(session)

    in_engine(talk, count=rounds.append)
    # 25 frames: windows of 8 from frames 0, 2, ... 16, then the rest.
    assert len([batch for batch in rounds if batch.lag_seconds]) <= 10
    assert len(rounds) <= 10 + 1
    assert sum(batch.audio_seconds for batch in rounds) == pytest.approx(1)


def test_the_pieces_that_wait_for_a_window_are_not_without_number():
    async def talk(engine):
        session = engine.open(100, 100)
        for _ in range(1_000):
            await session.send(silence(1))
            await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        return len(session._inbox)

    assert in_engine(talk) < module.MOST_PIECES


def test_a_lag_counts_from_the_last_sample_of_a_window():
    rounds = []

    async def talk(engine):
        session = engine.open(2, 6)
        await session.send(silence(5_119))
        await asyncio.sleep(0.5)
        assert not rounds
        sent = time.monotonic()
        await session.send(silence(1))
        while not rounds:
            await asyncio.sleep(0.01)
        most = time.monotonic() - sent
        session.end()
        await everything(session)
        return most

    most = in_engine(talk, count=rounds.append)
    assert rounds[0].audio_seconds == 5_120 / 16_000
    assert 0 <= rounds[0].lag_seconds[0] <= most


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_sessions_are_computed_in_the_precision_that_was_asked_for(precision):
    async def talk(engine):
        session = engine.open(2, 6)
        await session.send(pcm(speech(2, 0)))
        session.end()
        return await everything(session)

    captions = in_engine(talk, precision=precision)
    with arithmetic(MODEL, precision):
        expected = alone(speech(2, 0), 2, 6)
    arithmetic(MODEL, "float32")
    assert expected
    assert [caption for caption in captions if caption.final] == expected


def test_who_reads_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "MOST_UNREAD", 5)

    async def talk(engine):
        session = engine.open(2, 6)
        for _ in range(6):
            session._deliver(Said([Caption([], final=True)]), False)
        with pytest.raises(SessionError, match="were not read"):
            await session.send(pcm(speech(1, 0)))

    in_engine(talk)


def test_one_session_takes_its_turns():
    """Ten seconds at once are computed in rounds, between which others have theirs."""
    rounds = []

    async def talk(engine):
        session = engine.open(2, 6)
        await session.send(pcm(speech(9, 0)))
        session.end()
        await everything(session)

    in_engine(talk, count=rounds.append)
    assert max(batch.audio_seconds for batch in rounds) <= 0.5


def test_there_are_so_many_sessions_and_no_more():
    async def talk(engine):
        sessions = [engine.open(2, 6) for _ in range(2)]
        with pytest.raises(Busy, match="all of 2 sessions"):
            engine.open(2, 6)
        engine.close(sessions[0])
        engine.close(engine.open(2, 6))
        with pytest.raises(ValueError, match="chunk >= 1"):
            engine.open(0, 0)
        await sessions[1].send(pcm(speech(2, 0)))
        drained = asyncio.create_task(engine.drain(5))
        captions = await everything(sessions[1])
        with pytest.raises(Busy, match="about to stop"):
            engine.open(2, 6)
        assert not drained.done()
        engine.close(sessions[1])
        await drained
        return captions

    assert [caption for caption in in_engine(talk, most_sessions=2) if caption.final] == alone(speech(2, 0), 2, 6)
