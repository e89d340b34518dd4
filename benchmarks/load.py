"""How many people one server can listen to at once: real-time streams by WebSocket, and how late their words are.

    python benchmarks/load.py --streams 50 100 200
    python benchmarks/load.py --latency 640 --model runs/an4 --json load.json

`sru-asr serve` runs on one core, with one thread; clients on the others, once all are connected, send 40 ms of audio
every 40 ms each (55 the first time, if not at 16 kHz, as the page does), from random starting points in time. The lag
is what the server's own histogram says: between the arrival of the last samples of a window and the moment when all
that it says is known. What clients wait, for a caption since the last samples of its window were spoken, is theirs to
say: their own work is in it, too, and nothing above the length of a chunk can be seen. What each client hears is
compared with what the library says of the same samples.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import websockets
from context import add_json, context, write

from sru_asr import load_model
from sru_asr.audio import SAMPLE_RATE
from sru_asr.live import Live
from sru_asr.model import ModelConfig, Recognizer
from sru_asr.precision import PRECISIONS, arithmetic
from sru_asr.source import Pcm
from sru_asr.text import CharTokenizer
from sru_asr.windows import LOOKAHEAD_SHARE, window_of

HELD_BACK = 15.0  # ms, at most, by the server's resampler: windows would end with messages that do not end them
N_VOICES = 8  # different recordings; streams take turns with them


def talkative_model() -> Recognizer:
    """5.1 M parameters, drawn at random; it says something of any sound."""
    torch.manual_seed(3)
    model = Recognizer(ModelConfig(), CharTokenizer())
    model.features.mean.fill_(-5.0)
    model.features.scale.fill_(0.5)
    with torch.no_grad():
        model.ctc.linear.weight *= 8
    return model.eval()


def speech(seconds: float, seed: int, rate: int) -> bytes:
    """Noise that swells and fades, as 16-bit samples."""
    rng = np.random.default_rng(seed)
    n_samples, swell = int(seconds * rate), rate // 16
    loudness = np.repeat(rng.random(n_samples // swell + 1), swell)[:n_samples]
    return (3000 * loudness * rng.standard_normal(n_samples)).clip(-32_768, 32_767).astype("<i2").tobytes()


def expected(model: Recognizer, pcm: bytes, options: argparse.Namespace) -> list[str]:
    """The final captions of the library."""
    reader = Pcm(options.rate)
    waveform = torch.cat([reader.push(pcm), reader.finish()])
    live = Live(model, *window_of(options.latency, model.frames_per_second, options.lookahead_share))
    with arithmetic(model, options.precision):
        return [caption.text for caption in [*live.push(waveform), *live.finish()] if caption.final]


class Start:
    """When streams begin: once all are connected."""

    def __init__(self, streams: int) -> None:
        self._missing = streams
        self._all = asyncio.Event()

    async def wait(self) -> None:
        """Say that one is, and wait for the others."""
        self._missing -= 1
        if not self._missing:
            self._all.set()
        await self._all.wait()


class Heard(NamedTuple):
    """What came back to a client."""

    finals: list[str]  # captions
    waits: list[float]  # seconds from the last samples of a window to its caption, but for those of the end


async def speak(url: str, pcm: bytes, options: argparse.Namespace, frame: int, begin: Start, delay: float) -> Heard:
    """Send one stream at its pace, in windows of frames of so many samples, `delay` seconds after all may begin."""
    heard = Heard([], [])
    async with websockets.connect(url, proxy=None, compression=None, max_queue=None, open_timeout=60) as connection:
        await connection.send(json.dumps({"type": "start", "latency_ms": options.latency, "sample_rate": options.rate}))
        ready = json.loads(await connection.recv())
        if ready["type"] != "ready":
            raise RuntimeError(ready["message"])
        sent, whole = 0, (ready["chunk"] + ready["lookahead"]) * frame  # samples; those that make a window
        since: float | None = None  # when it was spoken

        async def hear() -> None:
            async for text in connection:
                if since is not None:
                    heard.waits.append(time.monotonic() - since)
                message = json.loads(text)
                if message["type"] == "final":
                    heard.finals.append(message["text"])
                elif message["type"] == "error":
                    raise RuntimeError(message["message"])

        await begin.wait()
        hearing = asyncio.create_task(hear())
        await asyncio.sleep(delay)
        start = time.monotonic()
        while 2 * sent < len(pcm):
            late = HELD_BACK if not sent and options.rate != SAMPLE_RATE else 0
            piece = pcm[2 * sent :][: 2 * int(options.rate * (options.piece + late) / 1000)]
            sent += len(piece) // 2
            await asyncio.sleep(start + sent / options.rate - time.monotonic())
            if sent >= whole:
                since = start + whole / options.rate
                whole += ready["chunk"] * frame
            await connection.send(piece)
        since = None
        await connection.send('{"type": "end"}')
        await hearing
    return heard


def lags(metrics: str) -> dict[float, float]:
    """Cumulated counts of the server's histogram, by upper bound in seconds."""
    return {
        float(bound): float(count)
        for bound, count in re.findall(r'^sru_asr_lag_seconds_bucket{le="([^"]+)"} (\S+)', metrics, re.MULTILINE)
    }


def percentile(counts: dict[float, float], share: float) -> float:
    """The upper bound, in seconds, below which this share lies."""
    total = counts[float("inf")]
    return next(bound for bound, count in sorted(counts.items()) if count >= share * total)


def cpu_seconds(process: int) -> float:
    """What it has used so far, by Linux's account."""
    user, system = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, model: Recognizer, streams: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    voices = [speech(options.seconds, seed, options.rate) for seed in range(N_VOICES)]
    wanted = [expected(model, voice, options) for voice in voices]
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "sru_asr.cli", "serve", "--model", str(folder), "--port", "0"]
    command += ["--streams", str(streams), "--precision", options.precision]
    command += ["--lookahead-share", str(options.lookahead_share)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    os.sched_setaffinity(0, cores[:1])  # which the server inherits
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    os.sched_setaffinity(0, cores[1:] or cores)
    try:
        assert server.stderr is not None
        host = server.stderr.readline().rsplit("/", 1)[-1].strip()
        rng = random.Random(0)

        async def everybody() -> list[Heard]:
            begin, frame = Start(streams), round(options.rate / model.frames_per_second)
            talks = (
                speak(f"ws://{host}/v1/stream", voices[n % N_VOICES], options, frame, begin, rng.uniform(0, 2))
                for n in range(streams)
            )
            return await asyncio.gather(*talks)

        start, before = time.monotonic(), cpu_seconds(server.pid)
        heard = asyncio.run(everybody())
        used, seconds = cpu_seconds(server.pid) - before, time.monotonic() - start
        with urllib.request.urlopen(f"http://{host}/metrics") as answer:
            counts = lags(answer.read().decode())
    finally:
        server.terminate()
        server.wait()
        os.sched_setaffinity(0, cores)
    wrong = sum(found.finals != wanted[number % N_VOICES] for number, found in enumerate(heard))
    waits = [wait for found in heard for wait in found.waits] or [float("nan")]  # of noise a model may say nothing
    return {
        "streams": streams,
        "lag_ms": {str(share): 1000 * percentile(counts, share) for share in (0.5, 0.9, 0.99)},
        "within_80_ms": counts[0.08] / counts[float("inf")],
        "wait_ms": {str(share): 1000 * float(np.quantile(waits, share)) for share in (0.5, 0.9, 0.99)},
        "core_share": used / seconds,
        "wrong": wrong,
        "words": sum(map(len, (caption.split() for found in heard for caption in found.finals))),
    }


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    parser.add_argument("--streams", type=int, nargs="+", default=[10, 50, 100, 200], help="(default: 10 50 100 200)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stream (default: %(default)s)")
    parser.add_argument("--latency", type=float, default=320.0, metavar="MS", help="(default: %(default)s)")
    parser.add_argument(
        "--piece", type=float, default=40.0, metavar="MS", help="of audio that is sent at a time (default: 40)"
    )
    parser.add_argument("--rate", type=int, default=16_000, metavar="HERTZ", help="of that audio (default: 16000)")
    parser.add_argument("--lookahead-share", type=float, default=LOOKAHEAD_SHARE, help="(default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="(default: %(default)s)")
    parser.add_argument("--model", metavar="PATH", help="(default: one of 5.1 M parameters, drawn at random)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print("streams  lag, ms: half within  99 % within  within 80 ms  clients: half, 99 % within  of the core  wrong")
    with tempfile.TemporaryDirectory() as name:
        model = load_model(options.model) if options.model else talkative_model()
        model.save(Path(name) / "model.safetensors")
        for streams in options.streams:
            row = measure(Path(name), model, streams, options)
            settings = {"precision": options.precision, "lookahead_share": options.lookahead_share}
            settings |= {
                "latency_ms": options.latency,
                "piece_ms": options.piece,
                "seconds": options.seconds,
                "rate": options.rate,
            }
            rows.append({**context(), **settings, **row})
            print(
                f"{streams:7}  {row['lag_ms']['0.5']:21.0f}  {row['lag_ms']['0.99']:11.0f}  "
                f"{100 * row['within_80_ms']:10.1f} %  {row['wait_ms']['0.5']:13.0f}  {row['wait_ms']['0.99']:11.0f}  "
                f"{100 * row['core_share']:9.0f} %  {row['wrong']:5}",
                flush=True,
            )
    write(rows, options.json)


if __name__ == "__main__":
    main()
