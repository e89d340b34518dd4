"""sru_asr, with the options of `sru-asr transcribe`."""

import json
import sys
import time
from pathlib import Path

from sru_asr.cli import _parser
from sru_asr.commands.options import decoding_of, load
from sru_asr.model import CHECKPOINT_NAME, SHIPPED
from sru_asr.precision import arithmetic

args = _parser().parse_args(["transcribe", *sys.argv[1:], "-"])
decoding = decoding_of(args)
model = load(args, decoding)
path = Path(args.model or SHIPPED)
path = path / CHECKPOINT_NAME if path.is_dir() else path
trained_on = "AN4, Free Spoken Digit Dataset, data/alphanum: 3.3 h"
if args.model is not None:
    settings = path.parent / "settings.json"  # what the training wrote beside the model
    sets = json.loads(settings.read_text())["data_sets"]["train"] if settings.exists() else []
    trained_on = ", ".join(sets) or "unknown: no settings.json beside it"
about = {"name": "sru_asr", "trained_on": trained_on, "bytes": path.stat().st_size, "seconds": time.process_time()}
print(json.dumps(about), flush=True)
with arithmetic(model, args.precision):
    for line in sys.stdin:
        print(json.dumps({"text": model.transcribe(line.strip(), decoding).text}), flush=True)
