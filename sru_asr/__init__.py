"""Speech recognition on Simple Recurrent Units.

    >>> import sru_asr
    >>> model = sru_asr.load_model()
    >>> print(model.transcribe("speech.wav"))

Names are imported when they are first used, so that importing the package stays quick and compiles nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sru_asr.decoding import Decoding, read_decoding
    from sru_asr.hotwords import Hotwords
    from sru_asr.layer import SRULayer
    from sru_asr.lexicon import Lexicon
    from sru_asr.live import Caption, Live
    from sru_asr.lm import Ngram
    from sru_asr.model import ModelConfig, Recognizer, load_model
    from sru_asr.ops import recurrence, recurrence_reference
    from sru_asr.scorer import Scorer
    from sru_asr.sru import SRU
    from sru_asr.stream import Stream
    from sru_asr.transcribe import Transcript
    from sru_asr.windows import window_of
    from sru_asr.words import Word

__version__ = "0.1.0"

_HOMES = {
    "Caption": "live",
    "Decoding": "decoding",
    "Hotwords": "hotwords",
    "Lexicon": "lexicon",
    "Ngram": "lm",
    "Scorer": "scorer",
    "read_decoding": "decoding",
    "Live": "live",
    "Word": "words",
    "SRU": "sru",
    "SRULayer": "layer",
    "ModelConfig": "model",
    "Recognizer": "model",
    "Transcript": "transcribe",
    "load_model": "model",
    "Stream": "stream",
    "window_of": "windows",
    "recurrence": "ops",
    "recurrence_reference": "ops",
}

__all__ = [
    "SRU",
    "Caption",
    "Decoding",
    "Hotwords",
    "Lexicon",
    "Live",
    "ModelConfig",
    "Ngram",
    "Recognizer",
    "SRULayer",
    "Scorer",
    "Stream",
    "Transcript",
    "Word",
    "__version__",
    "load_model",
    "read_decoding",
    "recurrence",
    "recurrence_reference",
    "window_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sru_asr' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sru_asr.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
