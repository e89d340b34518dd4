"""PocketSphinx with its US English model; `--lm FILE`: an ARPA model of upper-case words instead of its own."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.pop(0)  # this folder, where this file has the package's name

import pocketsphinx
import soundfile

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--lm", type=Path)
args = parser.parse_args()
more = {}
with tempfile.TemporaryDirectory() as folder:
    if args.lm is not None:  # its dictionary has words in lower case
        lines = args.lm.read_text(encoding="utf-8").splitlines()
        lower = [line if line.startswith(("\\", "ngram ")) else line.lower() for line in lines]
        (Path(folder) / "lm.arpa").write_text("\n".join(lower) + "\n", encoding="utf-8")
        more = {"lm": str(Path(folder) / "lm.arpa")}
    decoder = pocketsphinx.Decoder(loglevel="FATAL", **more)
model = Path(pocketsphinx.get_model_path()) / "en-us"
about = {
    "name": "PocketSphinx" + (" with an n-gram model of the same domain" if more else ""),
    "trained_on": "its US English acoustic model, 2016" + ("" if more else ", and its language model"),
    "bytes": sum(file.stat().st_size for file in model.rglob("*") if file.is_file()),
    "seconds": time.process_time(),
}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    samples, _ = soundfile.read(line.strip(), dtype="int16")
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    print(json.dumps({"text": "" if found is None else found.hypstr}), flush=True)
