"""`sru-asr evaluate`: error rates on a manifest."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sru_asr.commands.options import (
    MOST_FAULTS,
    OK,
    SOME_FAILED,
    CommandError,
    add_decoding,
    add_model,
    check_output,
    command,
    decoding_of,
    load,
    progress,
    show_faults,
    write_output,
)

if TYPE_CHECKING:
    from sru_asr.decoding import Decoding
    from sru_asr.evaluation import Evaluation
    from sru_asr.metrics import ErrorCounts
    from sru_asr.uncertainty import Difference

MOST_BYTES = 1 << 30


def add(commands: Any) -> None:
    """Describe its options."""
    parser = command(
        commands,
        "evaluate",
        run,
        "measure word and character error rate on a manifest",
        "A manifest is a .jsonl or .jsonl.gz file: Lhotse cuts, or objects with `audio` (relative to the manifest),\n"
        "`text` and optionally `speaker`, `id` and others for --group. Entries that cannot be used are named on\n"
        "standard error.\n"
        "exit status: 0 all entries evaluated, 1 some, 2 none\n"
        "example: sru-asr evaluate --model runs/an4 --manifest data/prepared/an4/dev.jsonl.gz --json dev.json\n"
        "example: sru-asr evaluate --manifest mine.jsonl --latency 320 --html report.html",
    )
    add_model(parser)
    add_decoding(parser)
    parser.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="audio files and what they say")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write counts, transcripts and faults there; wer and cer are fractions",
    )
    parser.add_argument(
        "--alignments",
        choices=("none", "errors", "all"),
        default="none",
        help="print how reference and hypothesis align, of utterances with errors or of all (default: none)",
    )
    parser.add_argument(
        "--latency",
        type=float,
        metavar="MS",
        help="recognise through windows of so many milliseconds, as live recognition does (default: full context)",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page there: rates by speaker and length, confidences, what is confused, the worst utterances",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="what --json has written of another system on the same manifest: is the difference more than chance?",
    )
    parser.add_argument(
        "--group",
        metavar="FIELD",
        help="print the WER of each value that this field of the manifest has, such as gender",
    )
    parser.add_argument("--speakers", action="store_true", help="print the WER of each speaker")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    check_output("--json", args.json)
    check_output("--html", args.html)
    other = None if args.compare is None else _read_results(args.compare)
    decoding = decoding_of(args)
    model = load(args, decoding)
    from sru_asr.evaluation import evaluate
    from sru_asr.manifest import ManifestError, read_manifest
    from sru_asr.metrics import align_words
    from sru_asr.precision import arithmetic
    from sru_asr.windows import window_of

    try:
        cuts, faults = read_manifest(args.manifest)
    except ManifestError as error:
        raise CommandError(str(error)) from error
    try:
        window = (0, 0) if args.latency is None else window_of(args.latency, model.frames_per_second)
    except ValueError as error:
        raise CommandError(f"--latency: {error}") from error
    with arithmetic(model, args.precision):
        evaluation = evaluate(
            model,
            cuts,
            chunk=window[0],
            lookahead=window[1],
            decoding=decoding,
            grouped_by=args.group,
            progress=progress,
        )
    evaluation.faults[:0] = faults
    # Where nothing is right, it is another kind of file, and its first lines tell.
    show_faults(evaluation.faults, None if evaluation.results else MOST_FAULTS)
    for result in evaluation.results:
        if args.alignments == "all" or (args.alignments == "errors" and result.words.errors):
            print(f"{result.id}  {result.words.errors} of {result.words.reference} words wrong")
            print(align_words(result.reference, result.hypothesis) + "\n")
    if args.speakers:
        for speaker, counts in sorted(evaluation.speakers.items(), key=lambda item: -item[1].rate):
            print(f"{speaker or '(no speaker)'}  WER {100 * counts.rate:.2f} %  of {counts.reference} words")
    if set(evaluation.groups) == {""}:
        print(f"sru-asr: --group: no utterance says its {args.group}", file=sys.stderr)
    for group, counts in sorted(evaluation.groups.items()):
        print(f"{args.group} {group or '(not said)'}  WER {100 * counts.rate:.2f} %  of {counts.reference} words")
    if not evaluation.results:
        raise CommandError(f"{args.manifest}: no utterance could be evaluated")
    beyond = [missing for one in evaluation.results if (missing := model.tokenizer.missing(one.reference))]
    if beyond:
        from sru_asr.text import spelled_out

        missing = set().union(*beyond)
        examples = ", ".join(map(repr, sorted(missing)[:MOST_FAULTS]))
        print(
            f"sru-asr: {len(beyond)} of {len(evaluation.results)} references have what the model cannot write "
            f"({examples}){spelled_out(missing)}",
            file=sys.stderr,
        )
    print(evaluation.summary())
    if other is not None:
        print(_compared(evaluation, other, args.compare))
    settings = {
        "model": str(args.model or "alphanum-en"),
        "manifest": str(args.manifest),
        "precision": args.precision,
        "device": args.device,
        "latency_ms": args.latency,
        "chunk": window[0],
        "lookahead": window[1],
        "decoding": _told(args, decoding),
    }
    if args.json is not None:
        found = json.dumps({**settings, **evaluation.to_dict()}, indent=1, ensure_ascii=False, allow_nan=False)
        write_output("--json", args.json, found + "\n")
    if args.html is not None:
        from sru_asr.report import report

        windows = "full context" if args.latency is None else f"{args.latency:g} ms, {window[0]} + {window[1]} frames"
        about = {"model": Path(args.model or "alphanum-en").name, "precision": args.precision, "context": windows}
        about |= {name.replace("_", " "): value for name, value in _told(args, decoding).items()}
        write_output("--html", args.html, report(evaluation, str(args.manifest), about))
    return SOME_FAILED if evaluation.faults else OK


def _told(args: argparse.Namespace, decoding: Decoding) -> dict[str, str | float]:
    """What has to be known of the decoding to do the same again."""
    found: dict[str, str | float] = {"beam": decoding.width}
    if (scorer := decoding.scorer) is not None:
        if args.lm is not None:
            found |= {"lm": str(args.lm), "lm_unit": args.lm_unit, "lm_weight": scorer.lm_weight}
        found["word_bonus"] = scorer.word_bonus
        if args.lexicon is not None:
            found["lexicon"] = str(args.lexicon)
        if args.hotwords is not None:
            found |= {"hotwords": str(args.hotwords), "boost": args.boost}
    return found


class Compared(NamedTuple):
    """Of an utterance: what was said, and the word errors of a system."""

    reference: str
    words: ErrorCounts


# An utterance, and how many before it have the same id, as where ids are missing and a file has several.
Key = tuple[str, int]


def _keys(ids: Iterable[str]) -> Iterator[Key]:
    seen: Counter[str] = Counter()
    for one in ids:
        yield one, seen[one]
        seen[one] += 1


def _read_results(path: Path) -> dict[Key, Compared]:
    """What a file has that --json has written."""
    from sru_asr.metrics import ErrorCounts

    names = ("hits", "substitutions", "deletions", "insertions")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CommandError(f"--compare: {path} has more than {MOST_BYTES} bytes")
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        found = [
            Compared(str(result["reference"]), ErrorCounts(*(int(result["words"][name]) for name in names)))
            for result in results
        ]
        return dict(zip(_keys(str(result["id"]) for result in results), found, strict=True))
    except (OSError, ValueError, OverflowError, KeyError, TypeError, RecursionError) as error:
        raise CommandError(f"--compare: {path} is not what evaluate --json writes: {error!r}") from error


def _compared(evaluation: Evaluation, other: dict[Key, Compared], path: Path) -> str:
    from sru_asr.metrics import by_group
    from sru_asr.uncertainty import difference

    numbered = zip(_keys(result.id for result in evaluation.results), evaluation.results, strict=True)
    pairs = [
        (other[key], result) for key, result in numbered if key in other and other[key].reference == result.reference
    ]
    try:
        found = difference([one.words for one, _ in pairs], [result.words for _, result in pairs])
    except ValueError as error:
        raise CommandError(f"--compare: {path}: {error}") from error
    line = (
        f"against {path}, {len(pairs)} utterances that both have: {100 * found.rate:+.2f} points of WER, 95 % interval "
        f"{_interval(found)} by utterance"
    )
    before = by_group((result.speaker, one.words) for one, result in pairs)
    after = by_group((result.speaker, result.words) for _, result in pairs)
    if "" not in before and len(before) > 1:
        by_speaker = difference([before[name] for name in after], list(after.values()))
        line += f", {_interval(by_speaker)} by speaker"
    return f"{line}; fewer errors in {100 * found.better:.0f} % of the bootstrap's samples"


def _interval(found: Difference) -> str:
    low, high = found.interval
    return f"{100 * low:+.2f} to {100 * high:+.2f}"
