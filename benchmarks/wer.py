"""Word error rate, time and memory of this project and of others, on the same audio in one run.

    python benchmarks/wer.py --manifest data/prepared/an4/dev.jsonl.gz --systems ours moonshine pocketsphinx
    python benchmarks/wer.py --manifest dev.jsonl --systems ours "ours --hotwords names.txt" "pocketsphinx --lm a.arpa"

A system is a script in `benchmarks/peers`, with options of its own. It gets the names of WAV files (16 kHz, 16 bits,
one channel) on standard input, one a line, and writes JSON lines: first its `name`, what it was `trained_on`, the
`bytes` of what it loads, and `seconds` of processor time that it has used until it was ready; then for each file its
`text`. A new one is a file of thirty lines; `pip install '.[peers]'` brings those that are there.

All run on one core with one thread. Texts are compared in the English form of whisper-normalizer, the references, too:
it writes numbers in digits and joins those that follow each other, so that one digit wrong is a whole number wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import soundfile
from context import add_json, context, write

from sru_asr.data import load_waveform
from sru_asr.manifest import read_manifest
from sru_asr.metrics import total, word_errors
from sru_asr.script import run
from sru_asr.uncertainty import interval

PEERS = Path(__file__).with_name("peers")
# Between a peer and this process, whose memory Linux would count as the peer's peak: a child's mark starts with it.
LAUNCH = """
import json, resource, subprocess, sys
status = subprocess.run([sys.executable, *sys.argv[2:]]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump({"seconds": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}, file)
sys.exit(status)
"""


def measure(system: str, files: list[Path], references: list[str], seconds: float) -> dict[str, Any]:
    """One row of the table.

    Args:
        system: name of a script in `peers`, with options.
        files: WAV.
        references: what is said in each, normalised.
        seconds: of all.
    """
    from whisper_normalizer.english import EnglishTextNormalizer

    name, *options = shlex.split(system)
    script = PEERS / f"{name}.py"
    cores = sorted(os.sched_getaffinity(0))
    threads = {f"{one}_NUM_THREADS": "1" for one in ("OMP", "MKL", "OPENBLAS")}
    with tempfile.TemporaryFile("w+") as names, tempfile.NamedTemporaryFile("r") as usage:
        names.write("".join(f"{file}\n" for file in files))
        names.seek(0)
        os.sched_setaffinity(0, cores[:1])  # which the system inherits
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, usage.name, str(script), *options],
            stdin=names,
            stdout=subprocess.PIPE,
            env=os.environ | threads,
            text=True,
        )
        os.sched_setaffinity(0, cores)
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
        status = process.wait()
        used = json.loads(usage.read() or "{}")
    if status or len(lines) != 1 + len(files):
        raise SystemExit(f"{system}: failed after {max(len(lines) - 1, 0)} of {len(files)} files")
    about, said = lines[0], [line["text"] for line in lines[1:]]
    normalise = EnglishTextNormalizer()
    counts = [word_errors(a, normalise(b)) for a, b in zip(references, said, strict=True)]
    words, sure = total(counts), interval(counts)
    return {
        "system": system,
        **{key: about[key] for key in ("name", "trained_on", "bytes")},
        "wer": words.to_dict(),
        "interval": sure,
        "compute_per_second": (used["seconds"] - about["seconds"]) / seconds,
        "start_seconds": about["seconds"],
        "peak_bytes": used["peak_bytes"],
    }


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    parser.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="audio files and what they say")
    parser.add_argument("--systems", nargs="+", default=["ours", "moonshine", "pocketsphinx"], help="(default: all)")
    options = parser.parse_args()
    known = sorted(path.stem for path in PEERS.glob("*.py"))
    for system in options.systems:
        if system.split()[:1] not in [[name] for name in known]:
            parser.error(f"--systems: expected one of {', '.join(known)}, and its options, found {system!r}")
    from whisper_normalizer.english import EnglishTextNormalizer

    normalise = EnglishTextNormalizer()
    cuts, faults = read_manifest(options.manifest)
    if faults:
        raise ValueError("\n".join(faults))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files, references, seconds = [], [], 0.0
        for number, cut in enumerate(cuts):
            waveform = load_waveform(cut)
            seconds += len(waveform) / 16_000
            files.append(Path(folder) / f"{number}.wav")
            soundfile.write(files[-1], waveform.numpy(), 16_000, "PCM_16")
            references.append(normalise(cut.supervisions[0].text or ""))
        print(f"{options.manifest.name}: {len(files)} utterances, {seconds / 60:.1f} min")
        print("   WER  95 % interval   s/s compute  start, s  peak, MiB  loaded, MiB  system")
        for system in options.systems:
            row = measure(system, files, references, seconds)
            rows.append({**context(), "manifest": options.manifest.name, **row})
            low, high = row["interval"] or (0.0, 0.0)
            sizes = f"{row['peak_bytes'] / 2**20:9.0f}  {row['bytes'] / 2**20:11.1f}"
            times = f"{row['compute_per_second']:11.4f}  {row['start_seconds']:8.1f}"
            rates = f"{100 * row['wer']['rate']:6.2f}  {100 * low:6.2f} {100 * high:6.2f}"
            print(f"{rates}   {times}  {sizes}  {system}", flush=True)
            write(rows, options.json)
    for row in rows:
        print(f"{row['system']}: {row['name']}, trained on {row['trained_on']}")


if __name__ == "__main__":
    run(main)
