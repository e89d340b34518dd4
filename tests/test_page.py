"""The page as somebody meets it: in Chromium, which hears a recording instead of a microphone."""

import json
import re
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from recording import AUDIO, SPOKEN, write_recording
from test_serve import Running

from sru_asr import load_model, serve
from sru_asr.model import SHIPPED

playwright = pytest.importorskip("playwright.sync_api", reason="pip install sru-asr[browser]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("page") / "recording.wav")


@pytest.fixture(scope="module")
def server():
    running = Running(Path(SHIPPED))
    yield running
    assert running.stop(signal.SIGTERM) == 0


@pytest.fixture
def page(recording, server):
    with opened(server.url, recording) as page:
        yield page


@contextmanager
def opened(url, recording):
    """The page, which has to end without faults."""
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={recording}%noloop",
        "--autoplay-policy=no-user-gesture-required",
        "--disable-background-networking",
        "--no-sandbox",
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        context = browser.new_context(permissions=["microphone"], viewport={"width": 900, "height": 620})
        page = context.new_page()
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(url)
        yield page
        # Chromium counts each answer of 400 and more as an error.
        assert not [fault for fault in faults if not fault.startswith("Failed to load resource")]
        browser.close()


def lines(page):
    """The words of each line."""
    found = page.locator("#text p:not(.partial)").all_inner_texts()
    return [re.sub(r"^\d+:\d\d\s*", "", line).strip() for line in found]


def test_what_is_said_into_the_microphone_is_on_the_page(page):
    expected = [load_model().transcribe(AUDIO / name).text for name in SPOKEN]
    page.click("#speak")
    playwright.expect(page.locator("#text p.partial")).to_have_count(1, timeout=20_000)
    playwright.expect(page.locator("#text p:not(.partial)")).to_have_count(2, timeout=30_000)
    page.click("#speak")
    playwright.expect(page.locator("#status")).to_have_text(re.compile(r"^[\d.]+ s$"), timeout=10_000)
    assert lines(page) == expected
    assert page.inner_text("#speak") == "Speak"


@pytest.mark.parametrize("refuses", [False, True])
def test_the_browser_resamples_where_it_can(page, refuses):
    """What the server has to resample comes later, and a whole message later if windows end with messages."""
    if refuses:
        page.evaluate(
            """() => {
                const source = AudioContext.prototype.createMediaStreamSource;
                AudioContext.prototype.createMediaStreamSource = function (stream) {
                    if (this.sampleRate === 16000) throw new Error("not the rate of the microphone");
                    return source.call(this, stream);
                };
            }"""
        )
    sent = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda message: sent.append(message)))
    page.click("#speak")
    playwright.expect(page.locator("#text p:not(.partial)")).to_have_count(1, timeout=30_000)
    page.click("#speak")
    playwright.expect(page.locator("#status")).to_have_text(re.compile(r"^[\d.]+ s$"), timeout=10_000)
    rate = json.loads(sent[0])["sample_rate"]
    assert (rate != 16_000) == refuses
    n_samples = [len(message) // 2 for message in sent[1:-1]]
    assert n_samples[0] == round(rate * (0.055 if refuses else 0.04))
    assert set(n_samples[1:-1]) == {round(rate * 0.04)}
    assert 0 < n_samples[-1] <= round(rate * 0.04)  # what there was when it stopped


def test_what_is_recorded_until_it_stops_is_handed_on(page):
    """Up to 40 ms used to stay behind, of the last word."""
    elsewhere = page.context.new_page()  # where code may be evaluated
    handed_on = elsewhere.evaluate(
        """(code) => {
            const handed = [];
            const keep = ({ samples, last }) => handed.push([samples.byteLength / 2, last]);
            class Processor { port = { postMessage: keep }; }
            let recorder;
            new Function("AudioWorkletProcessor", "sampleRate", "registerProcessor", code)(
                Processor, 16000, (_, Recorder) => (recorder = new Recorder()));
            const hear = (n) => recorder.process([[new Float32Array(n)]]);
            for (let i = 0; i < 6; i++) hear(128);
            recorder.port.onmessage();
            recorder.port.onmessage();
            return [...handed, hear(640)];
        }""",
        (Path(serve.__file__).parent / "page/recorder.js").read_text(),
    )
    assert handed_on == [[640, False], [128, True], False]


def test_a_microphone_that_is_pulled_out_ends_it(page):
    page.evaluate(
        """() => {
            const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (what) => (window.stream = await ask(what));
        }"""
    )
    page.click("#speak")
    playwright.expect(page.locator("#text p")).to_have_count(1, timeout=20_000)
    page.evaluate("window.stream.getTracks()[0].dispatchEvent(new Event('ended'))")
    playwright.expect(page.locator("#status")).to_have_text(re.compile(r"^[\d.]+ s$"), timeout=10_000)
    assert page.inner_text("#speak") == "Speak"


def test_who_has_handed_in_a_file_may_speak_at_once(page):
    """While the session before was closing, a click meant to stop it."""
    page.click("#speak")
    playwright.expect(page.locator("#text p.partial")).to_have_count(1, timeout=20_000)
    page.evaluate(  # as if the server took its time
        """() => {
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (data) { if (data !== '{"type":"end"}') send.call(this, data); };
        }"""
    )
    page.set_input_files("#file", AUDIO / SPOKEN[1])
    assert page.inner_text("#speak") == "Speak"
    page.click("#speak")
    playwright.expect(page.locator("#speak")).to_have_text("Stop", timeout=10_000)


def test_a_file_is_read_along_with_its_player(page, recording):
    words = load_model().transcribe(recording).words
    page.set_input_files("#file", recording)
    playwright.expect(page.locator("#text p")).to_have_count(2, timeout=20_000)
    assert [word for line in lines(page) for word in line.split()] == [word.text for word in words]
    word = page.locator("#text span[data-start]").nth(2)
    word.click()
    playwright.expect(word).to_have_class("now")
    assert page.evaluate("document.getElementById('player').currentTime") >= words[2].start


def test_of_two_files_the_last_one_is_shown(page, recording):
    page.set_input_files("#file", recording)
    page.set_input_files("#file", AUDIO / SPOKEN[0])
    playwright.expect(page.locator("#status")).to_have_text(re.compile(rf"^{SPOKEN[0]}: "), timeout=20_000)
    page.wait_for_timeout(1_000)
    assert lines(page) == [load_model().transcribe(AUDIO / SPOKEN[0]).text]


def test_of_speech_and_a_file_handed_in_meanwhile_the_file_is_shown(page):
    """The microphone's captions go on coming for a while; and nobody is listened to who was only about to be."""
    page.click("#speak")
    playwright.expect(page.locator("#text p.partial")).to_have_count(1, timeout=20_000)
    expected = [load_model().transcribe(AUDIO / SPOKEN[1]).text]
    for _ in range(2):
        page.set_input_files("#file", AUDIO / SPOKEN[1])
        playwright.expect(page.locator("#status")).to_have_text(re.compile(rf"^{SPOKEN[1]}: "), timeout=20_000)
        page.wait_for_timeout(1_500)
        assert lines(page) == expected
        assert page.inner_text("#status").startswith(SPOKEN[1])
        assert page.inner_text("#speak") == "Speak"
        page.evaluate(
            """() => {
                const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
                navigator.mediaDevices.getUserMedia = async (what) => {
                    await new Promise((go) => setTimeout(go, 1000));
                    return (window.stream = await ask(what));
                };
            }"""
        )
        page.click("#speak")
    page.set_input_files("#file", AUDIO / SPOKEN[1])
    page.wait_for_timeout(2_500)
    assert lines(page) == expected
    assert page.evaluate("window.stream.getTracks().map((track) => track.readyState)") == ["ended"]


def test_a_microphone_is_let_go_where_there_is_no_sound_system(page):
    page.evaluate(
        """() => {
            window.AudioContext = class { constructor() { throw new Error("no hardware"); } };
            const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (what) => (window.stream = await ask(what));
        }"""
    )
    page.click("#speak")
    playwright.expect(page.locator("#status.error")).to_have_text("no hardware")
    assert page.evaluate("window.stream.getTracks().map((track) => track.readyState)") == ["ended"]


def test_a_key_is_asked_for_by_who_speaks(recording, tmp_path):
    (tmp_path / "key.txt").write_text("sesame\n")
    server = Running(Path(SHIPPED), "--api-key-file", str(tmp_path / "key.txt"))
    try:
        with opened(server.url, recording) as page:
            playwright.expect(page.locator("#key")).to_be_hidden()
            page.click("#speak")
            playwright.expect(page.locator("#status.error")).to_contain_text("api_key", timeout=10_000)
            page.fill("#key", "sesame")
            page.click("#speak")
            playwright.expect(page.locator("#text p")).to_have_count(1, timeout=20_000)
            page.click("#speak")
    finally:
        assert server.stop(signal.SIGTERM) == 0


def test_what_is_no_audio_is_said_on_the_page(page, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    page.set_input_files("#file", tmp_path / "text.wav")
    playwright.expect(page.locator("#status.error")).to_contain_text("found no audio")
