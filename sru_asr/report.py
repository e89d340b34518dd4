"""An evaluation as a page to look at: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from sru_asr import __version__
from sru_asr.evaluation import SCORING, Evaluation
from sru_asr.metrics import pair_words, total

TEMPLATE = Path(__file__).with_suffix(".html")
MOST_SPEAKERS, MOST_PAIRS, MOST_UTTERANCES = 200, 25, 100
LENGTHS = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, math.inf))


def report(evaluation: Evaluation, title: str, settings: Mapping[str, object]) -> str:
    """The page.

    Args:
        evaluation: of at least one utterance.
        title: its heading; what was measured on what.
        settings: shown below it.
    """
    results = evaluation.results
    substituted: Counter[str] = Counter()
    deleted: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    wrong = sorted((result for result in results if result.words.errors), key=lambda result: -result.words.errors)
    for result in wrong:
        for said, heard in pair_words(result.reference, result.hypothesis):
            if not heard:
                deleted[said] += 1
            elif not said:
                inserted[heard] += 1
            elif said != heard:
                substituted[f"{said} → {heard}"] += 1
    lengths = []
    for least, most in LENGTHS:
        some = [result.words for result in results if least <= result.words.reference <= most]
        name = str(least) if least == most else f"{least} to {most}" if most < math.inf else f"{least} and more"
        if some:
            lengths.append((name, len(some), total(some)))
    speakers = sorted(evaluation.speakers.items(), key=lambda item: (-item[1].rate, item[0]))
    of_lengths = [(name, counts) for name, _, counts in lengths]
    parts = [counts.rate for _, counts in (*speakers, *evaluation.groups.items(), *of_lengths)]
    highest = max((rate for rate in parts if rate < math.inf), default=0.0) or 1.0
    calibration = evaluation.calibration
    # Everything that is shown comes from somebody's files: it is text, whatever it looks like.
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        title=title,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        version=__version__,
        settings=settings,
        scoring=SCORING,
        words=evaluation.words,
        characters=evaluation.characters,
        by_utterance=evaluation.wer_interval,
        by_speaker=evaluation.wer_interval_by_speaker,
        calibration=calibration,
        n_words=0 if calibration is None else sum(one.words for one in calibration.bins),
        n_results=len(results),
        seconds=sum(result.seconds for result in results),
        lengths=lengths,
        grouped_by=evaluation.grouped_by,
        groups=sorted(evaluation.groups.items(), key=lambda item: -item[1].reference)[:MOST_SPEAKERS],
        n_groups=len(evaluation.groups),
        speakers=speakers[:MOST_SPEAKERS],
        n_speakers=len(speakers),
        substituted=substituted.most_common(MOST_PAIRS),
        deleted=deleted.most_common(MOST_PAIRS),
        inserted=inserted.most_common(MOST_PAIRS),
        worst=[(result, pair_words(result.reference, result.hypothesis)) for result in wrong[:MOST_UTTERANCES]],
        n_wrong=len(wrong),
        missed=evaluation.missed,
        known=sum(result.missed is not None for result in results),
        faults=evaluation.faults,
        percent=lambda share: f"{100 * share:.2f} %" if share < math.inf else "∞",
        width=lambda rate: round(min(100 * rate / highest, 100), 1) if rate < math.inf else 100,
    )
