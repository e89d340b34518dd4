"""`sru-asr stream` as somebody uses it who speaks: the system's sound, in which a recording is played."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from recording import AUDIO, SPOKEN, write_recording

from sru_asr import load_model

PROGRAMS = ("pulseaudio", "pactl", "paplay")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, PROGRAMS)),
        reason="there is no PulseAudio here: apt-get install pulseaudio pulseaudio-utils libasound2-plugins",
    ),
]


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def sound(tmp_path):
    """The environment of a sound system of its own, whose microphone hears what its loudspeaker plays."""
    pytest.importorskip("sounddevice", reason="pip install sru-asr[microphone], apt-get install libportaudio2")
    folder = tmp_path / "sound"
    folder.mkdir(mode=0o700)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(folder), "PULSE_RUNTIME_PATH": str(folder / "pulse")}
    modules = ("module-null-sink sink_name=speaker rate=48000", "module-native-protocol-unix")
    loaded = [part for module in modules for part in ("-L", module)]
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", *loaded]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            choose = ["pactl", "set-default-source", "speaker.monitor"]
            until(lambda: subprocess.run(choose, env=environment, stderr=subprocess.DEVNULL).returncode == 0)
            devices = subprocess.run(
                [sys.executable, "-m", "sounddevice"], env=environment, capture_output=True, text=True
            ).stdout
            if "pulse" not in devices:
                pytest.skip("ALSA does not know of PulseAudio here: apt-get install libasound2-plugins")
            yield environment
        finally:
            server.terminate()


@contextmanager
def listening(environment, *options):
    """`sru-asr stream`, once it hears."""
    command = [sys.executable, "-m", "sru_asr.cli", "stream", *options]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        asked = ["pactl", "list", "short", "source-outputs"]
        until(lambda: subprocess.run(asked, env=environment, capture_output=True).stdout or program.poll() is not None)
        try:
            yield program
        finally:
            program.kill()


def test_what_is_said_is_written_down(sound, tmp_path):
    recording = write_recording(tmp_path / "recording.wav")
    expected = [load_model().transcribe(AUDIO / name).text for name in SPOKEN]
    finals = []
    with listening(sound, "--format", "json") as program:
        subprocess.run(["paplay", recording], env=sound, check=True)
        while len(finals) < len(SPOKEN):
            caption = json.loads(program.stdout.readline())
            if caption["final"]:
                finals.append(caption)
        program.send_signal(signal.SIGINT)
        rest, errors = program.communicate(timeout=60)
    assert [caption["text"] for caption in finals] == expected
    assert not rest
    assert program.returncode == 0, errors
    # When it was played nobody knows, but that nothing was lost between the two.
    words = load_model().transcribe(recording).words
    seconds = finals[1]["words"][0]["start"] - finals[0]["words"][0]["start"]
    assert seconds == pytest.approx(words[len(expected[0].split())].start - words[0].start, abs=0.2)


def test_a_microphone_that_there_is_not_is_an_error(sound):
    with listening(sound, "--device-name", "of nobody") as program:
        _, errors = program.communicate(timeout=60)
    assert program.returncode != 0
    assert "the microphone cannot be used" in errors
    assert "python -m sounddevice" in errors
    assert "Traceback" not in errors
