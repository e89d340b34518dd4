"""What a client may do in a live session, and how long it may take, with an application in this process."""

import time

import numpy as np
import pytest
import soundfile
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from test_engine import MODEL, speech

from sru_asr.serve import conversation, files, guard
from sru_asr.serve.app import create_app
from sru_asr.serve.guard import UPLOADS
from sru_asr.serve.limits import Limits


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


def test_a_session_lasts_only_so_long_by_its_audio(client):
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start"})
        socket.send_bytes(bytes(2 * 16_000 * 2))
        socket.send_bytes(bytes(2))
        assert "a session lasts at most 2 s" in last(socket)["message"]


def test_a_session_lasts_only_so_long_by_the_clock(monkeypatch):
    monkeypatch.setattr(conversation, "IDLE_SECONDS", 0.2)
    limits = Limits(most_stream_seconds=0.3)
    with TestClient(create_app(MODEL, limits=limits)) as client, client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start"})
        for _ in range(10):
            socket.send_bytes(bytes(2))
            time.sleep(0.06)
        assert "a session lasts at most 0.3 s" in last(socket)["message"]


def test_an_upload_that_takes_too_long_is_broken_off(client, monkeypatch):
    monkeypatch.setattr(guard, "UPLOAD_SECONDS", -1.0)
    answer = client.post(UPLOADS, files={"file": b"x"})
    assert answer.status_code == 400
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


def test_keys_may_be_of_any_letters():
    headers = Headers(raw=[(b"authorization", "Bearer clé".encode())])
    assert guard.allowed(Limits(api_key="clé"), guard.bearer(headers))
    assert not guard.allowed(Limits(api_key="clé"), guard.bearer(Headers(raw=[(b"authorization", b"Bearer cl")])))
    assert guard.bearer(Headers()) is None
