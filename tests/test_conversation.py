"""What a client may do in a live session, and how long it may take, with an application in this process."""

import asyncio
import io
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Timer

import numpy as np
import pytest
import soundfile
import torch
import uvicorn
from conftest import full_disk
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from test_engine import MODEL, alone, pcm, speech

from sru_asr.serve import conversation, files, guard, run
from sru_asr.serve.app import create_app
from sru_asr.serve.engine import INTERNAL, Engine
from sru_asr.serve.guard import UPLOADS
from sru_asr.serve.limits import Limits
from sru_asr.windows import window_of


@pytest.fixture
def client():
    with TestClient(create_app(MODEL, limits=Limits(most_stream_seconds=2.0, most_seconds=5.0))) as client:
        yield client


def last(socket):
    """The last message before the server closes."""
    message = None
    try:
        while True:
            message = socket.receive_json()
    except WebSocketDisconnect:
        return message


def test_who_says_nothing_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr(conversation, "START_SECONDS", 0.1)
    with client.websocket_connect("/v1/stream") as socket:
        assert "a start message within 0.1 s" in last(socket)["message"]


def test_a_long_message_that_is_no_audio_is_not_looked_at(client, monkeypatch):
    """One of a megabyte held up everybody else for half a second."""
    monkeypatch.setattr(conversation.Start, "model_validate", lambda _: pytest.fail("looked at"))
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_text('{"type": "start", ' + ", ".join(f'"{i}": 0' for i in range(1000)) + "}")
        assert "at most 4096 characters" in last(socket)["message"]


@pytest.mark.parametrize("content", [None, b""])
def test_who_says_nothing_more_is_not_waited_for(client, monkeypatch, content):
    """Empty messages are nothing."""
    monkeypatch.setattr(conversation, "IDLE_SECONDS", 0.3)
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start"})
        for _ in range(3):
            socket.send_bytes(b"\0\0")
            if content is not None:
                socket.send_bytes(content)
        assert "found nothing for 0.3 s" in last(socket)["message"]


@pytest.mark.parametrize("ended", [False, True])
def test_who_reads_nothing_is_not_waited_for(monkeypatch, ended):
    monkeypatch.setattr(conversation, "IDLE_SECONDS", 0.3)
    # Samples go on coming for longer than that, so that it is not silence that ends it.
    messages = [{"type": "websocket.receive", "text": '{"type": "start"}'}]
    messages += [{"type": "websocket.receive", "bytes": pcm(speech(1.5, 3))}]
    messages += [{"type": "websocket.receive", "text": '{"type": "end"}'}] if ended else []

    class Socket:
        headers = Headers()

        async def receive(self):
            if messages:
                return messages.pop(0)
            await asyncio.sleep(0.05)
            return {"type": "websocket.receive", "bytes": bytes(2)}

        async def send_json(self, message):
            if message["type"] != "ready":
                await asyncio.Event().wait()

    async def talk():
        engine = Engine(MODEL)
        running = asyncio.create_task(engine.run())
        with pytest.raises(conversation.Refused, match="nothing was read"):
            await asyncio.wait_for(conversation.converse(Socket(), engine, "any", Limits()), 20)
        assert not engine.sessions
        running.cancel()

    asyncio.run(talk())


@pytest.mark.parametrize("latency_ms", [320, 2_000])
@pytest.mark.parametrize("end", ["idle", "limit", "nonsense"])
def test_what_has_been_said_is_told_before_an_error(client, monkeypatch, latency_ms, end):
    if end == "idle":
        monkeypatch.setattr(conversation, "IDLE_SECONDS", 0.5)
    samples = pcm(speech(1.5, 3))
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start", "latency_ms": latency_ms})
        socket.send_bytes(samples)
        if end == "limit":
            socket.send_bytes(bytes(2 * 16_000))
        else:
            socket.send_bytes(b"\0")  # the other half may have been to come
        if end == "nonsense":
            socket.send_json({"type": "enough"})
        messages = [socket.receive_json()]
        while messages[-1]["type"] != "error":
            messages.append(socket.receive_json())
    heard = alone(torch.from_numpy(np.frombuffer(samples, "<i2") / np.float32(32_768)), *window_of(latency_ms, 25))
    assert [m["text"] for m in messages if m["type"] == "final"] == [caption.text for caption in heard]
    assert heard
    reasons = {"idle": "found nothing for", "limit": "lasts at most", "nonsense": "expected audio or"}
    assert reasons[end] in messages[-1]["message"]


def test_a_session_lasts_only_so_long_by_its_audio(client):
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start"})
        socket.send_bytes(bytes(2 * 16_000 * 2))
        socket.send_bytes(bytes(2))
        assert "a session lasts at most 2 s" in last(socket)["message"]


def test_a_session_lasts_only_so_long_by_the_clock(monkeypatch):
    monkeypatch.setattr(conversation, "IDLE_SECONDS", 1.0)
    limits, over = Limits(most_stream_seconds=0.3), Event()

    def go_on(socket):
        while not over.wait(0.05):
            socket.send_bytes(bytes(2))

    with TestClient(create_app(MODEL, limits=limits)) as client, client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start"})
        with ThreadPoolExecutor(1) as pool:
            pool.submit(go_on, socket)
            try:
                assert "a session lasts at most 0.3 s" in last(socket)["message"]
            finally:
                over.set()


def test_an_upload_that_takes_too_long_is_broken_off(client, monkeypatch):
    monkeypatch.setattr(guard, "UPLOAD_SECONDS", -1.0)
    answer = client.post(UPLOADS, files={"file": b"x"})
    assert answer.status_code == 408
    assert "all of the file within -1 s" in answer.json()["error"]["message"]
    assert client.get("/health").json()["status"] == "ok"


def test_a_file_of_more_audio_than_may_be_is_refused_before_it_is_decoded(client, tmp_path, monkeypatch):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(8_000 * 120, np.int16), 8_000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the last bits of the length
    content[22:26] = bytes(4)
    answer = client.post(UPLOADS, files={"file": bytes(content)})
    assert answer.status_code == 400
    assert "at most 480000 samples" in answer.json()["error"]["message"]
    soundfile.write(path, np.zeros(8_000 * 6, np.int16), 8_000)
    assert (
        "at most 5 s, found 6 s" in client.post(UPLOADS, files={"file": path.read_bytes()}).json()["error"]["message"]
    )


def test_a_server_that_stops_leaves_off_a_file(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(1, 0).numpy(), 16_000)
    app = create_app(MODEL)

    def stopping(*_):
        app.state.stop()
        yield speech(1, 0)

    monkeypatch.setattr(files, "blocks", stopping)
    with TestClient(app) as client:
        for _ in range(2):  # while it is recognised, and after
            answer = client.post(UPLOADS, files={"file": path.read_bytes()})
            assert answer.status_code == 503
            assert "about to stop" in answer.json()["error"]["message"]


def test_a_file_that_nobody_waits_for_any_more_is_left_off(monkeypatch):
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.05)
    recogniser = files.Files(MODEL, Limits())
    (wav := io.BytesIO()).name = "a.wav"
    soundfile.write(wav, np.zeros(16_000 * 3_000, np.int16), 16_000)
    asked = []

    async def has_gone():
        asked.append(time.monotonic())
        return len(asked) > 1

    async def ask():
        with pytest.raises(files.Gone):
            await recogniser.recognise(wav.getvalue(), has_gone)

    asyncio.run(ask())
    recogniser._thread.shutdown(wait=True)
    assert len(asked) == 2


def test_who_does_not_read_is_dropped(monkeypatch):
    """Uvicorn would wait for ever for the end of what it has written to be read."""

    class Transport:
        def __init__(self, closing, unread):
            self.is_closing, self.get_write_buffer_size = lambda: closing, lambda: unread
            self.abort = lambda: dropped.append(self)

    class Connection:
        def __init__(self, transport):
            self.transport = transport

    dropped = []
    server = run.Server(uvicorn.Config(None))
    stuck, endless, fine, leaving = (Transport(*o) for o in ((True, 9), (False, 1 << 30), (False, 1 << 20), (True, 0)))
    connections = [Connection(one) for one in (stuck, endless, fine)]
    now = 100.0
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    server.server_state.connections = {*connections}
    asyncio.run(server.on_tick(0))
    assert dropped == [endless]
    now += run.CLOSE_SECONDS + 1
    server.server_state.connections = {*connections[::2], Connection(leaving)}
    asyncio.run(server.on_tick(10))
    assert dropped == [endless, stuck]


def test_errors_are_counted_and_answered_in_one_form(monkeypatch, tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(1, 0).numpy(), 16_000)
    app = create_app(MODEL)
    with TestClient(app, raise_server_exceptions=False) as client:

        def counted():
            found = re.search(r'^sru_asr_errors_total{kind="request"} (\S+)', client.get("/metrics").text, re.MULTILINE)
            return float(found[1])

        assert client.post(UPLOADS, files={"file": b"no audio"}).status_code == 400
        assert client.post(UPLOADS, data={"language": "de"}, files={"file": b"x"}).status_code == 400
        assert client.get("/nowhere").status_code == 404
        assert counted() == 3
        monkeypatch.setattr(files, "header", lambda *_: 1 / 0)
        answer = client.post(UPLOADS, files={"file": (tmp_path / "a.wav").read_bytes()})
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        assert counted() == 4


def test_health_says_that_live_recognition_has_failed(monkeypatch):
    app = create_app(MODEL)
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
        app.state.engine._count = None
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start"})
            socket.send_bytes(bytes(16_000))
            assert "internal error" in last(socket)["message"]
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "failed")


@pytest.mark.parametrize("size", ["0" * 25 + "5760123", "9" * 30, "9" * 5_000, "-1", "1e9", "1_0", "", "\u0661"])
def test_a_size_that_is_none_or_hidden_behind_zeros_is_too_large(size):
    with TestClient(create_app(MODEL, limits=Limits(most_bytes=1 << 20))) as client:
        answer = client.post(UPLOADS, headers={"content-length": size.encode()}, content=b"")
    assert answer.status_code == 413


def test_keys_may_be_of_any_letters():
    headers = Headers(raw=[(b"authorization", "Bearer clé".encode())])
    assert guard.allowed(Limits(api_key="clé"), guard.bearer(headers))
    assert not guard.allowed(Limits(api_key="clé"), guard.bearer(Headers(raw=[(b"authorization", b"Bearer cl")])))
    assert guard.bearer(Headers()) is None


def test_a_session_that_cannot_begin_for_a_fault_of_ours_is_told_and_counted(monkeypatch, caplog):
    """Torch's errors, as where memory ends, were taken for a connection that has closed."""

    def fail(*_, **__):
        raise torch.OutOfMemoryError("no more memory")

    monkeypatch.setattr(Engine, "open", fail)
    with TestClient(create_app(MODEL)) as client:
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start"})
            assert socket.receive_json() == {"type": "error", "message": INTERNAL}
        assert 'sru_asr_errors_total{kind="stream"} 1.0' in client.get("/metrics").text
    assert "no more memory" in caplog.text


@pytest.mark.parametrize("seconds", [1, 100])
def test_an_upload_for_which_there_is_no_room_is_not_the_client_s_fault(caplog, seconds):
    """A small one waits in memory, and a large one in the folder for temporary files."""
    (wav := io.BytesIO()).name = "a.wav"
    soundfile.write(wav, np.zeros(16_000 * seconds, np.int16), 16_000)
    with TestClient(create_app(MODEL)) as client:
        with full_disk(10_000):
            answer = client.post(UPLOADS, files={"file": wav.getvalue()})
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, files.NO_ROOM)
        assert "File too large" in caplog.text
        assert client.post(UPLOADS, files={"file": wav.getvalue()}).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_before_it_serves_is_not_lost(monkeypatch, number):
    """It says where it listens a while before."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    late = Timer(20, signal.pthread_kill, (threading.main_thread().ident, signal.SIGTERM))
    monkeypatch.setattr(run.gc, "freeze", lambda: signal.raise_signal(number))
    interval = sys.getswitchinterval()
    late.start()
    try:
        run.run(create_app(MODEL), run.listen("127.0.0.1", 0))
        assert late.is_alive()
    finally:
        late.cancel()
        sys.setswitchinterval(interval)
        for each, handler in before.items():
            signal.signal(each, handler)
