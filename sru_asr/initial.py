"""The model that a training begins with: a new one, the encoder of another, or all of it."""

from __future__ import annotations

from dataclasses import asdict

from jsonargparse import Namespace
from lhotse import CutSet

from sru_asr.data import make_loader
from sru_asr.features import FeatureStatistics, frame_count
from sru_asr.model import ModelConfig, Recognizer, load_model
from sru_asr.settings import DataConfig
from sru_asr.text import CharTokenizer, SentencePieceTokenizer, Tokenizer, alphabet, normalize

# Utterances from which feature statistics are taken, evenly spaced through the training set.
STATISTICS_UTTERANCES = 500


def given_model(args: Namespace, said: Namespace) -> Recognizer:
    """Load what `--init-from` names, and have `args` say what it is; options that ask for another one are refused.

    Args:
        args: all options.
        said: those that are no defaults.
    """
    model = load_model(args.init_from)
    vocab_size = 0 if isinstance(model.tokenizer, CharTokenizer) else model.tokenizer.vocab_size
    found = {f"model.{name}": value for name, value in asdict(model.config).items()}
    if not args.new_tokenizer:
        found["data.vocab_size"] = vocab_size
    refused = [
        f"--{name} {args[name]} (it has {value})"
        for name, value in found.items()
        if name in said and args[name] != value
    ]
    if refused:
        brought = "an architecture" if args.new_tokenizer else "architecture and tokenizer"
        raise ValueError(f"--init-from {args.init_from} brings {brought} of its own: leave out {', '.join(refused)}")
    for name, value in found.items():
        args[name] = value
    return model.train()


def new_model(config: ModelConfig, data: DataConfig, train_cuts: CutSet, given: Recognizer | None) -> Recognizer:
    """A model with a tokenizer for these transcripts, which has the encoder of `given` where there is one.

    Where there is none, its features have not been measured yet; see `measure_features`.
    """
    texts = (normalize(cut.supervisions[0].text) for cut in train_cuts)
    tokenizer: Tokenizer
    if data.vocab_size:
        tokenizer = SentencePieceTokenizer.train(texts, data.vocab_size)
    else:
        tokenizer = CharTokenizer(alphabet(texts))
    model = Recognizer(config, tokenizer)
    if given is not None:
        model.features.load_state_dict(given.features.state_dict())  # the encoder knows no others
        model.encoder.load_state_dict(given.encoder.state_dict())
        model.delay = given.delay  # it hears words as late as before
    return model


def measure_features(model: Recognizer, cuts: CutSet, max_batch_seconds: float) -> None:
    """Take mean and deviation of the features from utterances spread over the training set, which are none too long."""
    every = max(len(cuts) // STATISTICS_UTTERANCES, 1)
    sample = CutSet.from_cuts(cut for i, cut in enumerate(cuts) if i % every == 0)
    statistics = FeatureStatistics(model.features.n_mels)
    for batch in make_loader(sample, None, max_seconds=max_batch_seconds, training=False):
        statistics.add(model.features.log_mel(batch.waveforms), frame_count(batch.lengths))
    statistics.write_to(model.features)
