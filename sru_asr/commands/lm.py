"""`sru-asr lm`: language models."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from sru_asr.commands.options import (
    MOST_FAULTS,
    OK,
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


def add(commands: Any) -> None:
    """Describe its options."""
    parser = command(
        commands,
        "lm",
        run,
        "train n-gram language models, and find out how much they should count",
        "Needs the extra lm: pip install 'sru-asr[lm]'.\n"
        "example: sru-asr lm train --order 2 data/prepared/an4/train.jsonl.gz --output an4.arpa\n"
        "example: sru-asr lm tune --lm an4.arpa --manifest data/prepared/an4/dev.jsonl.gz",
    )
    actions = parser.add_subparsers(required=True, title="actions", metavar="ACTION")
    train = command(
        actions,
        "train",
        _train,
        "train a model and write it as an ARPA file",
        "By kaldingram, with Kneser and Ney's smoothing. Texts are normalised as transcripts are.\n"
        "example: sru-asr lm train --order 3 texts.txt --output texts.arpa",
    )
    train.add_argument(
        "texts", nargs="+", type=Path, metavar="FILE", help="texts, one a line, or manifests (.jsonl, .jsonl.gz)"
    )
    train.add_argument("--output", required=True, type=Path, metavar="FILE", help="the ARPA file")
    train.add_argument("--order", type=int, default=3, metavar="N", help="the n of its n-grams, 2 to 5 (default: 3)")
    train.add_argument("--unit", choices=("word", "character"), default="word", help="(default: word)")
    tune = command(
        actions,
        "tune",
        _tune,
        "find the weight and the word bonus with the fewest errors on a manifest",
        "Of speakers that nothing was trained on, and that nothing is measured on later.\n"
        "example: sru-asr lm tune --lm an4.arpa --lexicon an4.txt --manifest dev.jsonl.gz --json tuned.json",
    )
    add_model(tune)
    add_decoding(tune, weights=False)
    tune.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="audio files and what they say")
    tune.add_argument("--seconds", type=float, default=3600, metavar="S", help="of audio at most (default: 3600)")
    tune.add_argument("--json", type=Path, metavar="FILE", help="write all settings there, the best one first")


def run(args: argparse.Namespace) -> int:
    """The actions do it."""
    raise AssertionError("argparse asks for an action")


def _train(args: argparse.Namespace) -> int:
    from sru_asr.lm import LanguageModelError, train_ngram

    check_output("--output", args.output)
    try:
        texts = chain.from_iterable(map(_texts, args.texts))
        n_units = train_ngram(texts, args.output, args.order, args.unit)
    except LanguageModelError as error:
        raise CommandError(str(error)) from error
    print(f"{args.output}: {args.order}-grams of {n_units} {args.unit}s")
    return OK


def _texts(path: Path) -> Iterator[str]:
    from sru_asr.text import normalize

    if path.name.endswith((".jsonl", ".jsonl.gz")):
        from sru_asr.manifest import ManifestError, read_texts

        try:
            texts, faults = read_texts(path)
        except ManifestError as error:
            raise CommandError(str(error)) from error
        show_faults(faults, None if texts else MOST_FAULTS)
        yield from map(normalize, texts)
        return
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                if _is_json_object(line):
                    raise CommandError(
                        f"{path}: expected texts, found JSON: a manifest's name ends with .jsonl or .jsonl.gz"
                    )
                yield normalize(line)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: cannot be read as text: {error}") from error


def _is_json_object(line: str) -> bool:
    """Not of a text that begins with {noise}."""
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _tune(args: argparse.Namespace) -> int:
    if args.lm is None:
        raise CommandError("lm tune: expected --lm FILE; sru-asr lm train makes one")
    check_output("--json", args.json)
    decoding = decoding_of(args)
    model = load(args, decoding)
    from sru_asr.manifest import ManifestError, read_manifest
    from sru_asr.precision import arithmetic
    from sru_asr.tuning import hear, tune

    try:
        cuts, faults = read_manifest(args.manifest)
    except ManifestError as error:
        raise CommandError(str(error)) from error
    with arithmetic(model, args.precision):
        heard, unheard = hear(model, cuts, args.seconds, progress)
    show_faults([*faults, *unheard], None if heard else MOST_FAULTS)
    if not heard:
        raise CommandError(f"{args.manifest}: no utterance could be used")
    assert decoding.scorer is not None  # there is a language model
    settings = tune(model, heard, decoding.scorer, decoding.width, progress)
    print("weight  word bonus    WER  hits, substitutions, deletions, insertions")
    for setting in settings[:10]:
        words = setting.words
        counts = f"{words.hits}, {words.substitutions}, {words.deletions}, {words.insertions}"
        print(f"{setting.lm_weight:6.1f}  {setting.word_bonus:10.1f}  {100 * words.rate:5.2f}  {counts}")
    print(f"best: --lm-weight {settings[0].lm_weight} --word-bonus {settings[0].word_bonus}")
    if args.json is not None:
        write_output("--json", args.json, json.dumps([asdict(setting) for setting in settings], indent=1) + "\n")
    return OK
