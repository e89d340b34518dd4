"""Moonshine tiny, English, as the `moonshine-voice` package holds it; whole utterances, not streamed."""

import json
import sys
import time

import soundfile
from moonshine_voice import ModelArch, get_model_path
from moonshine_voice.transcriber import Transcriber

path = get_model_path("tiny-en")
transcriber = Transcriber(path, ModelArch.TINY)
n_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
about = {
    "name": "Moonshine tiny (moonshine-voice)",
    "trained_on": "about 200,000 h of speech (Jeffries et al. 2024, arXiv:2410.15608)",
    "bytes": n_bytes,
    "seconds": time.process_time(),
}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    samples, rate = soundfile.read(line.strip(), dtype="float32")
    found = transcriber.transcribe_without_streaming(samples.tolist(), rate)
    print(json.dumps({"text": " ".join(one.text for one in found.lines)}), flush=True)
