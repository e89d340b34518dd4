"""The server as clients meet it: a process, spoken to by the `openai` client and WebSockets, and by who means harm."""

import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile
import torch
import websockets.sync.client as websockets
from test_engine import MODEL, alone, pcm, speech
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sru_asr.subtitles import srt, vtt
from sru_asr.windows import window_of

KEY = "a key"


UPLOADS = "/v1/audio/transcriptions"


class Running:
    """A server's process, and where it listens."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "sru_asr.cli", "serve", "--model", str(folder), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        self.host = re.search(r"http://(\S+)", line)[1]
        self.url = f"http://{self.host}"

    def live(self, **options):
        return websockets.connect(f"ws://{self.host}/v1/stream", proxy=None, **options)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        _, self.error = self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The engine's model and some audio."""
    folder = tmp_path_factory.mktemp("serve")
    MODEL.save(folder / "model.safetensors")
    soundfile.write(folder / "speech.wav", speech(3, 1).numpy(), 16_000, subtype="FLOAT")
    (folder / "key.txt").write_text(f"\ufeff{KEY}\n", encoding="utf-8")  # as Windows begins files
    return folder


@pytest.fixture(scope="module")
def server(folder):
    running = Running(folder, "--streams", "20", "--megabytes", "1", "--origin", "https://Example.org/")
    yield running
    assert running.stop() == 0


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def as_heard(waveform):
    """What is left of it in 16 bits."""
    return torch.from_numpy(np.frombuffer(pcm(waveform), "<i2").astype(np.float32) / 32_768)


def received(connection):
    """All messages until the server closes."""
    messages = []
    try:
        while True:
            messages.append(json.loads(connection.recv(timeout=30)))
    except ConnectionClosed:
        return messages


def nobody_is_left(server):
    """Wait for sessions to end whose clients have gone."""
    for _ in range(200):
        if httpx.get(f"{server.url}/health", timeout=30).json()["streams"] == 0:
            return
        time.sleep(0.05)
    pytest.fail("sessions stay open that nobody has")


def say(connection, *messages):
    """Send what there is, or as much as the server takes: what it says of it when it closes is still to be received."""
    with contextlib.suppress(ConnectionClosed):
        for message in messages:
            connection.send(message)


def spoken(server, waveform, size=1_280, latency_ms=320, **options):
    """All messages of a session in which this is said."""
    with server.live(**options) as connection:
        audio = pcm(waveform)
        pieces = [audio[i : i + size] for i in range(0, len(audio), size)]
        start = json.dumps({"type": "start", "latency_ms": latency_ms})
        say(connection, start, *pieces, json.dumps({"type": "end"}))
        return received(connection)


# Files


def test_the_openai_client_gets_what_the_library_says(server, folder):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    expected = MODEL.transcribe(folder / "speech.wav")
    assert expected.words

    def ask(response_format, **options):
        return client.audio.transcriptions.create(
            model="any", file=folder / "speech.wav", response_format=response_format, **options
        )

    assert ask("json").text == expected.text
    assert ask("text").strip() == expected.text
    assert ask("srt") == srt(expected.words)
    assert ask("vtt") == vtt(expected.words)
    verbose = ask("verbose_json", language="en", timestamp_granularities=["word"])
    assert verbose.text == expected.text
    assert verbose.duration == 3.0
    assert [(word.word, word.start, word.end) for word in verbose.words] == [word[:3] for word in expected.words]
    assert verbose.segments[0].start == expected.words[0].start
    assert verbose.segments[-1].end == expected.words[-1].end
    assert " ".join(segment.text for segment in verbose.segments) == expected.text
    # Of a frame, of which there are 25 a second.
    assert verbose.segments[0].avg_logprob == pytest.approx(expected.score / 75, rel=1e-4)
    assert [model.id for model in client.models.list()] == [folder.name]
    assert client.models.retrieve(folder.name).id == folder.name
    assert ask("json", language="en-US").text == expected.text
    for response_format in ("json", "text"):
        events = list(ask(response_format, stream=True))
        assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
        assert events[0].delta == events[1].text == expected.text


def test_what_is_wrong_with_a_request_is_said_as_openai_says_it(server, folder):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)

    def ask(content=None, **options):
        file = ("speech.wav", (folder / "speech.wav").read_bytes() if content is None else content)
        return client.audio.transcriptions.create(**{"model": "any", "file": file, **options})

    with pytest.raises(openai.BadRequestError, match="found no audio") as error:
        ask(b"not audio at all")
    assert error.value.body["type"] == "invalid_request_error"
    assert "/" not in error.value.body["message"].split(";")[0]  # nothing of where the server keeps files
    with pytest.raises(openai.BadRequestError, match="knows English"):
        ask(language="de")
    with pytest.raises(openai.BadRequestError, match="expected a response_format of json or text"):
        ask(response_format="srt", stream=True)
    with pytest.raises(openai.NotFoundError, match="found 'other'"):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError) as error:
        ask(response_format="docx")
    assert error.value.body["param"] == "response_format"
    text = httpx.post(f"{server.url}{UPLOADS}", data={"file": "speech.wav"})  # as curl does without its @
    assert (text.status_code, "-F file=@speech.wav" in text.json()["error"]["message"]) == (400, True)
    with pytest.raises(openai.APIStatusError, match="at most 1048576 bytes") as error:
        ask(bytes(2 << 20))
    assert error.value.status_code == 413
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="x")
    for options in ({"content": iter([b"x"])}, {"headers": {"Transfer-Encoding": "CHUNKED"}}):
        chunked = httpx.post(f"{server.url}{UPLOADS}", **options)
        assert (chunked.status_code, set(chunked.json())) == (411, {"error"})


def test_many_uploads_that_go_on_for_ever_take_the_places_of_no_others(server, folder):
    """A place is taken before a file is received; who breaks off leaves it."""
    host, port = server.host.split(":")
    head = f"POST {UPLOADS} HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: 5000\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"

    def ask():
        file = {"file": (folder / "speech.wav").read_bytes()}
        return httpx.post(f"{server.url}{UPLOADS}", files=file)

    with ExitStack() as stack:
        for _ in range(8):
            slow = stack.enter_context(socket.create_connection((host, int(port))))
            slow.sendall(head.encode())
        for _ in range(100):
            if (answer := ask()).status_code != 200:
                break
            time.sleep(0.05)
        assert answer.status_code == 503
        assert "too many files" in answer.json()["error"]["message"]
    for _ in range(100):
        if (answer := ask()).status_code == 200:
            break
        time.sleep(0.05)
    assert answer.status_code == 200


def test_a_server_on_loopback_goes_by_its_own_names_and_serves_its_own_pages(server, folder):
    def ask(**headers):
        file = {"file": (folder / "speech.wav").read_bytes()}
        return httpx.post(f"{server.url}{UPLOADS}", files=file, headers=headers)

    port = server.host.partition(":")[2]
    for headers in (
        {"Host": "localhost"},
        {"Host": f"[::1]:{port}"},
        {"Host": "example.org"},  # as behind a proxy: its pages may ask, so it may be called so
        {"Origin": server.url},
    ):
        assert ask(**headers).status_code == 200
    for headers in (
        {"Host": "rebound.example.com"},
        {"Host": "127.0.0.1.example.com"},
        {"Host": f"rebound.example.com:{port}", "Origin": f"http://rebound.example.com:{port}"},
        {"Host": "x/v1@localhost"},
        {"Host": ""},
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ):
        assert ask(**headers).status_code in {400, 403}
    allowed = ask(Origin="https://example.org")
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://example.org")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert httpx.options(server.url + UPLOADS, headers={"Origin": "https://example.org", **asked}).status_code == 200
    lines = ["GET /v1/stream HTTP/1.1", "Host: example.com", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 403")


def test_the_page_comes_with_its_parts_and_nothing_else(server):
    page = httpx.get(server.url)
    assert page.headers["content-type"].startswith("text/html")
    for part in [*re.findall(r'(?:href|src)="(\w+\.\w+)"', page.text), "recorder.js"]:
        assert httpx.get(f"{server.url}/{part}").status_code == 200
    for address in ("/index.html", "/page.py", "/../app.py", "/%2e%2e/app.py", "/page/page.js"):
        assert httpx.get(f"{server.url}{address}").status_code == 404


def test_health_and_metrics(server):
    spoken(server, speech(1, 0))
    health = httpx.get(f"{server.url}/health").json()
    assert health["status"] == "ok"
    metrics = httpx.get(f"{server.url}/metrics").text
    assert re.search(r'^sru_asr_audio_seconds_total{kind="live"} [1-9]', metrics, re.MULTILINE)
    assert "sru_asr_batch_seconds_bucket" in metrics


# Live


def finals(messages):
    return [message["words"] for message in messages if message["type"] == "final"]


def expected_finals(waveform, latency_ms):
    captions = alone(as_heard(waveform), *window_of(latency_ms, MODEL.frames_per_second))
    return [[word._asdict() for word in caption.words] for caption in captions]


@pytest.mark.parametrize(("size", "latency_ms"), [(333, 320), (1_280, 160), (100_000, 640)])
def test_live_captions_are_those_of_the_library(server, size, latency_ms):
    waveform = speech(3, 2)
    messages = spoken(server, waveform, size, latency_ms)
    assert messages[0]["type"] == "ready"
    assert messages[-1] == {"type": "end", "seconds": 3.0}
    assert finals(messages) == expected_finals(waveform, latency_ms)
    assert all(m["text"] == " ".join(word["text"] for word in m["words"]) for m in messages[1:-1])


def test_many_clients_hear_of_their_own_speech(server):
    waveforms = [speech(2 + number % 3, 100 + number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda waveform: spoken(server, waveform, 3_200), waveforms))
    for waveform, messages in zip(waveforms, found, strict=True):
        assert finals(messages) == expected_finals(waveform, 320)


def test_other_rates_are_taken(server):
    with server.live() as connection:
        connection.send(json.dumps({"type": "start", "sample_rate": 48_000}))
        connection.send(bytes(2 * 48_000))
        connection.send(json.dumps({"type": "end"}))
        assert received(connection)[-1]["seconds"] == pytest.approx(1.0, abs=0.001)


def test_a_message_of_low_rate_is_long_and_keeps_nobody_waiting(server):
    """200 kB are a hundred seconds at 1000 Hz: resampled in parts, and read no faster than computed."""
    with server.live(max_queue=None) as connection:
        connection.send(json.dumps({"type": "start", "sample_rate": 1_000}))
        connection.send(bytes(200_000))
        connection.send(json.dumps({"type": "end"}))
        assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
        assert received(connection)[-1]["seconds"] == pytest.approx(100.0, abs=0.01)


BAD = [
    b"audio first",
    "no JSON",
    "[1, 2]",
    '{"type": "stop"}',
    '{"type": "start", "sample_rate": 1}',
    '{"type": "start", "latency_ms": 1e999}',
    '{"type": "start", "latency_ms": NaN}',
    '{"type": "start", "unknown": 1}',
    "[" * 100_000,
]


@pytest.mark.parametrize("first", BAD, ids=lambda first: str(first)[:30])
def test_what_is_no_start_is_an_error_and_the_end(server, first):
    with server.live() as connection:
        say(connection, first)
        (message,) = received(connection)
        assert message["type"] == "error"
        assert "start" in message["message"] or "JSON" in message["message"]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (["{}"], "expected audio or"),
        (["end"], "expected a JSON object"),
        ([b"\1", '{"type": "end"}'], "odd number of bytes"),
    ],
)
def test_what_is_neither_audio_nor_the_end_is_an_error(server, pieces, message):
    with server.live() as connection:
        say(connection, '{"type": "start"}', *pieces)
        last = received(connection)[-1]
        assert last["type"] == "error"
        assert message in last["message"]


def test_half_a_sample_at_the_end_is_an_error_behind_what_was_said(server):
    with server.live() as connection:
        say(connection, '{"type": "start"}', pcm(speech(2, 0)) + b"\1", '{"type": "end"}')
        *messages, last = received(connection)
    assert "odd number of bytes" in last["message"]
    assert finals(messages) == expected_finals(speech(2, 0), 320)


def test_too_large_a_message_is_the_end_of_its_session(server):
    with server.live() as connection:
        say(connection, '{"type": "start"}', bytes(3 << 20))
        messages = received(connection)
        assert "end" not in [message["type"] for message in messages]
        # 1009: too big. The server closes with megabytes unread, so TCP may reset it before that is heard: 1006.
        assert connection.close_code in (1009, 1006)
    nobody_is_left(server)


def test_there_are_only_so_many_sessions(server):
    nobody_is_left(server)
    with ExitStack() as stack:
        answers = []
        for _ in range(21):
            connection = stack.enter_context(server.live())
            connection.send('{"type": "start"}')
            answers.append(json.loads(connection.recv(timeout=10)))
        assert [answer["type"] for answer in answers] == ["ready"] * 20 + ["error"]
        assert "all of 20 sessions are taken" in answers[-1]["message"]


def test_pages_of_others_may_not_stream(server):
    for origin in (f"http://{server.host}", "https://example.org"):
        assert finals(spoken(server, speech(1, 3), origin=origin)) == expected_finals(speech(1, 3), 320)
    for origin in ("https://example.com", "null", "http://["):
        with pytest.raises(InvalidStatus, match="403"), server.live(origin=origin):
            pass


def test_who_means_harm_harms_nobody(server):
    """Random bytes, half-open sockets and thousands of bad messages, while somebody speaks."""
    rng = random.Random(0)
    open_sockets = []

    def harm(number):
        if number % 3 == 0:
            with socket.create_connection(server.host.split(":")) as connection:
                connection.sendall(rng.randbytes(2_000))
        elif number % 3 == 1:
            connection = socket.create_connection(server.host.split(":"))
            connection.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: ")
            open_sockets.append(connection)
        else:
            with server.live() as connection:
                if number % 2:
                    connection.send('{"type": "start"}')
                try:
                    for _ in range(200):
                        connection.send(rng.choice([rng.randbytes(99), "x" * 99, "{}", '{"type": "start"}']))
                except ConnectionClosed:
                    pass

    waveform = speech(4, 5)
    with ThreadPoolExecutor(6) as pool:
        said = pool.submit(spoken, server, waveform, 640)
        list(pool.map(harm, range(60)))
        assert finals(said.result()) == expected_finals(waveform, 320)
    for connection in open_sockets:
        connection.close()
    assert finals(spoken(server, speech(1, 6))) == expected_finals(speech(1, 6), 320)
    nobody_is_left(server)


# Starting and stopping


def test_a_key_is_asked_for(folder):
    server = Running(folder, "--api-key-file", str(folder / "key.txt"))
    try:
        for header, status in ((f"bearer  {KEY}", 200), (KEY, 401), (f"Basic {KEY}", 401), ("", 401)):
            headers = {"Authorization": header.encode()}
            assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == status
        with server.live() as connection:
            connection.send('{"type": "start", "api_key": "\\ud800"}')
            assert "api_key" in json.loads(connection.recv())["message"]
        for key, ok in ((KEY, True), ("other", False)):
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key)
            if ok:
                assert list(client.models.list())
                assert (
                    spoken(server, speech(1, 0), additional_headers={"Authorization": f"Bearer {key}"})[-1]["type"]
                    == "end"
                )
            else:
                with pytest.raises(openai.AuthenticationError, match="this server's key"):
                    client.models.list()
                assert "api_key" in spoken(server, speech(0.1, 0))[-1]["message"]
        with server.live() as connection:
            connection.send(json.dumps({"type": "start", "api_key": KEY}))
            assert json.loads(connection.recv())["type"] == "ready"
        assert httpx.get(f"{server.url}/health").status_code == 200
    finally:
        server.stop()


def test_stopping_does_not_wait_for_who_goes_on_speaking(folder):
    server = Running(folder)
    with server.live() as connection:
        connection.send('{"type": "start"}')
        assert json.loads(connection.recv(timeout=10))["type"] == "ready"
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(500):
                connection.send(bytes(3_200))
                time.sleep(0.01)
        assert received(connection)[-1]["type"] == "end"
    assert server.stop() == 0
    assert "Traceback" not in server.error


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_stopping_finishes_what_has_been_said(folder, sig):
    server = Running(folder)
    waveform = speech(3, 7)
    with server.live() as connection:
        connection.send('{"type": "start"}')
        connection.send(pcm(waveform))
        messages = [json.loads(connection.recv(timeout=30))]
        while messages[-1]["type"] != "partial":
            messages.append(json.loads(connection.recv(timeout=30)))
        server.process.send_signal(sig)
        messages += received(connection)
    assert messages[-1]["type"] == "end"
    assert finals(messages) == expected_finals(waveform, 320)
    assert server.stop() == 0
    assert "Traceback" not in server.error


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_stopping_finishes_a_file_however_often_it_is_asked(folder, sig):
    soundfile.write(folder / "long.flac", np.zeros(1_800 * 8_000, np.int16), 8_000)
    server = Running(folder)
    with ThreadPoolExecutor(1) as pool:
        file = {"file": (folder / "long.flac").read_bytes()}
        answer = pool.submit(httpx.post, f"{server.url}{UPLOADS}", files=file, timeout=60)
        while "sru_asr_files 1" not in httpx.get(f"{server.url}/metrics").text and not answer.done():
            time.sleep(0.01)
        server.process.send_signal(sig)
        if sig == signal.SIGTERM:  # of a second Ctrl-C see below
            server.process.send_signal(sig)
        assert answer.result().status_code == 200
    assert server.stop(signal.SIGTERM) == 0
    assert "Traceback" not in server.error


@contextlib.contextmanager
def half_an_upload(server):
    """The connection of one that is being read."""
    with socket.create_connection(server.host.split(":")) as slow:
        headers = f"Host: {server.host}\r\nContent-Length: 9\r\nExpect: 100-continue\r\n"
        headers += "Content-Type: multipart/form-data; boundary=x"
        slow.sendall(f"POST {UPLOADS} HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        slow.settimeout(10)
        assert b"100 Continue" in slow.recv(1_000)
        yield slow


def test_stopping_does_not_wait_for_the_rest_of_an_upload(folder):
    server = Running(folder)
    with half_an_upload(server) as slow:
        server.process.send_signal(signal.SIGTERM)
        answer = slow.recv(10_000)
        assert b" 503 " in answer.splitlines()[0]
        assert b"about to stop" in answer + slow.recv(10_000)
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.process.stderr.read()


def test_a_second_ctrl_c_waits_for_nothing(folder):
    soundfile.write(folder / "longer.flac", np.zeros(3_500 * 8_000, np.int16), 8_000)
    server = Running(folder)
    with server.live() as connection, ThreadPoolExecutor(1) as pool, half_an_upload(server):
        file = {"file": (folder / "longer.flac").read_bytes()}
        answer = pool.submit(httpx.post, f"{server.url}{UPLOADS}", files=file, timeout=60)
        while "sru_asr_files 2" not in httpx.get(f"{server.url}/metrics").text and not answer.done():
            time.sleep(0.01)
        connection.send('{"type": "start"}')
        connection.recv(timeout=10)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert server.process.poll() is None  # it waits for the file
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert answer.exception() or answer.result().status_code == 503
    assert "Traceback" not in server.process.stderr.read()


def test_a_port_that_is_taken_is_an_error(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sru_asr.cli", "serve", "--model", str(folder), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
