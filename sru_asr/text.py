"""Transcripts: their one normal form, and the tokenizers that turn them into the numbers a model emits."""

import base64
import io
import re
import reprlib
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import sentencepiece

BLANK = 0

DEFAULT_SYMBOLS = (" ", "'", *string.ascii_uppercase)

# The last four of the apostrophes are Greek, the last of the spaces is Hebrew; what is dropped ends with Spanish,
# Greek, Arabic and Indian punctuation, and with what chooses between the forms of a sign.
_APOSTROPHES = "\u2018\u2019\u201b\u02b9\u02bb\u02bc\u2032`\u00b4\u0384\u1fbd\u1fbf\u1ffd"
_SPACES = "-_\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u05be"
_DROPPED = '.,!?;:"()[]\u2026\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u00ad'
_DROPPED += "\u00a1\u00bf\u00b7\u060c\u061b\u061f\u0964\u0965\u034f" + "".join(map(chr, range(0xFE00, 0xFE10)))
# Capitals that upper case would leave unlike those of the small letters: sharp s, and the Turkish I with a dot.
_CAPITALS = {"\u1e9e": "SS", "\u0130": "I"}
# Invisible characters that some scripts need between letters; others are marks of files and pages.
_JOINERS = "\u200c\u200d"
_TABLE = str.maketrans(
    {**dict.fromkeys(_APOSTROPHES, "'"), **dict.fromkeys(_SPACES, " "), **dict.fromkeys(_DROPPED), **_CAPITALS}
)
# A single quotation that begins low ends with what is an apostrophe elsewhere.
_LOW_QUOTED = re.compile("\u201a([^\u201a\u2018]*)\u2018")
# Accents that NFKC leaves by themselves, of signs such as the diaeresis that is on no letter.
_ON_NOTHING = re.compile(r"(?<!\S)[\u0300-\u036f]+")

# What a tokenizer that comes out of a file may have at most. The largest vocabularies in use have some 100 000 symbols.
_MAX_SYMBOLS = 1 << 18
_MAX_MODEL_BYTES = 1 << 24

_SPACE_PIECE = "\u2581"  # sentencepiece's name for a space


class TokenizerError(ValueError):
    """A text cannot be encoded, ids cannot be decoded, or a tokenizer cannot be built; the message says why."""


def normalize(text: str) -> str:
    """The one form in which transcripts are trained on, written and scored.

    Unicode NFKC; typographic apostrophes become ', dashes and underscores a space; . , ! ? ; : ( ) [ ], the ellipsis,
    low and double quotes, Spanish, Greek, Arabic and Indian punctuation go, and what is invisible, such as soft
    hyphens, byte-order marks and marks of direction; upper case, in which \u00df is SS and the Turkish i has no dot;
    single spaces, none at the ends. Digits, symbols and letters of any script stay, for a tokenizer to report.
    """
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf" or c in _JOINERS)
        text = _LOW_QUOTED.sub(r"\1", text)
    # The acute accent must be replaced before NFKC takes it apart, what NFKC produces after it; case can decompose.
    text = unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
    text = _ON_NOTHING.sub("", unicodedata.normalize("NFKC", text.upper()))
    return " ".join(text.split())


def spelled_out(missing: Iterable[str]) -> str:
    """What to do about characters that a tokenizer lacks, to be added to a message; nothing about letters."""
    return "; numbers are to be spelled out, as they are said" if any(map(str.isdigit, missing)) else ""


def alphabet(texts: Iterable[str]) -> tuple[str, ...]:
    """`DEFAULT_SYMBOLS`, then the other letters of normalised transcripts, with what is written on and between them.

    Digits and signs are left out, for a tokenizer to report: they can be read in more than one way.
    """
    others = {symbol for text in texts for symbol in text}.difference(DEFAULT_SYMBOLS)
    letters = (symbol for symbol in others if unicodedata.category(symbol)[0] in "LM" or symbol in _JOINERS)
    return (*DEFAULT_SYMBOLS, *sorted(letters))


class CharTokenizer:
    """One token per character: the blank is token 0, `symbols` follow in their order from token 1.

    Args:
        symbols: Single characters, each once.

    Raises:
        TokenizerError: `symbols` is empty, too long, or holds something else or something twice.
    """

    def __init__(self, symbols: Sequence[str] = DEFAULT_SYMBOLS) -> None:
        if not 0 < len(symbols) <= _MAX_SYMBOLS:
            raise TokenizerError(f"expected 1 to {_MAX_SYMBOLS} symbols, found {len(symbols)}; list the alphabet")
        for symbol in symbols:
            if not isinstance(symbol, str) or len(symbol) != 1:
                raise TokenizerError(
                    f"expected symbols of one character, found {reprlib.repr(symbol)}; split or remove it"
                )
        self.symbols = tuple(symbols)
        self._ids = {symbol: id for id, symbol in enumerate(self.symbols, start=1)}
        self._pieces = ("", *self.symbols)
        if len(self._ids) < len(self.symbols):
            twice = [symbol for symbol, count in Counter(self.symbols).items() if count > 1]
            raise TokenizerError(
                f"expected every symbol once, found {_listed(twice)} more than once; remove the copies"
            )

    @property
    def vocab_size(self) -> int:
        """The number of tokens, the blank included."""
        return 1 + len(self.symbols)

    @property
    def pieces(self) -> tuple[str, ...]:
        """What each token adds to a text; the blank adds nothing."""
        return self._pieces

    def missing(self, text: str) -> set[str]:
        """The characters of `text` that have no token."""
        return set(text) - self._ids.keys()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, one per character, none of them the blank.

        Raises:
            TokenizerError: `text` has characters without a token.
        """
        if missing := self.missing(text):
            raise _lacks(missing, text)
        return [self._ids[symbol] for symbol in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, blanks left out.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        return "".join(self.symbols[id - 1] for id in _without_blanks(ids, self.vocab_size))

    def to_dict(self) -> dict[str, Any]:
        """What `tokenizer_from_dict` takes, of JSON's types."""
        return {"type": "char", "symbols": list(self.symbols)}


class SentencePieceTokenizer:
    """Tokens are the pieces of a sentencepiece model: the blank is token 0, piece i is token i + 1.

    Args:
        model_proto: The serialised sentencepiece model.

    Raises:
        TokenizerError: `model_proto` is too large or no such model.
    """

    def __init__(self, model_proto: bytes) -> None:
        if not 0 < len(model_proto) <= _MAX_MODEL_BYTES:
            found = f"{len(model_proto)} bytes"
            raise TokenizerError(f"expected a sentencepiece model of 1 to {_MAX_MODEL_BYTES} bytes, found {found}")
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
            n_pieces = self._model.vocab_size()
            # A damaged model may load and then have pieces that are not UTF-8.
            pieces = self._model.id_to_piece(list(range(n_pieces)))
        except (RuntimeError, UnicodeDecodeError) as error:
            found = f"bytes that it cannot load ({error})"
            raise TokenizerError(f"expected a sentencepiece model, found {found}; export it again") from error
        self.model_proto = model_proto
        self._unknown = self._model.unk_id()
        pieces[self._unknown] = self._model.decode([self._unknown])
        self._pieces = ("", *(piece.replace(_SPACE_PIECE, " ") for piece in pieces))

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, model_type: Literal["bpe", "unigram"] = "bpe"
    ) -> "SentencePieceTokenizer":
        """Trains a model in memory; every character of the texts becomes a piece, none is rewritten.

        Args:
            texts: Normalised transcripts, of letters (`alphabet`).
            vocab_size: The number of tokens, the blank and sentencepiece's unknown piece included.
            model_type: sentencepiece's algorithm.

        Raises:
            TokenizerError: The texts are empty or hold digits or signs, which can be read in more than one way, or
                `vocab_size` is more than they have pieces for, or too few for their characters; the message names the
                limit.
        """
        texts = list(texts)
        letters = CharTokenizer(alphabet(texts))
        for text in texts:
            if missing := letters.missing(text):
                raise TokenizerError(
                    f"expected letters only, found {_listed(sorted(missing))} in {reprlib.repr(text)}; numbers are "
                    "spelled out, as they are said, and signs left out"
                )
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                model_type=model_type,
                vocab_size=vocab_size - 1,
                character_coverage=1.0,
                normalization_rule_name="identity",
                max_sentence_length=1 << 20,  # longer texts are left out without a word
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                minloglevel=2,
            )
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(_training_failure(vocab_size, str(error))) from error
        return cls(model.getvalue())

    @property
    def vocab_size(self) -> int:
        """The number of tokens, the blank included."""
        return 1 + self._model.vocab_size()

    @property
    def pieces(self) -> tuple[str, ...]:
        """What each token adds to a text, with the space before it where it begins a word; the blank adds nothing."""
        return self._pieces

    def missing(self, text: str) -> set[str]:
        """The characters of `text` that have no token."""
        return {symbol for symbol in set(text) if symbol == _SPACE_PIECE or self._unknown in self._model.encode(symbol)}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, none of them the blank; spaces count as `normalize` leaves them, single and inside.

        Raises:
            TokenizerError: `text` has characters without a token.
        """
        pieces = self._model.encode(text)
        if self._unknown in pieces or _SPACE_PIECE in text:
            raise _lacks(self.missing(text), text)
        return [piece + 1 for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, blanks left out.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        return self._model.decode([id - 1 for id in _without_blanks(ids, self.vocab_size)])

    def to_dict(self) -> dict[str, Any]:
        """What `tokenizer_from_dict` takes, of JSON's types; the model is in base64."""
        return {"type": "sentencepiece", "model": base64.b64encode(self.model_proto).decode("ascii")}


Tokenizer = CharTokenizer | SentencePieceTokenizer


def tokenizer_from_dict(d: object) -> Tokenizer:
    """Builds the tokenizer that `to_dict` described, trusting nothing in the description.

    Raises:
        TokenizerError: The description is not of that form, too large, or inconsistent.
    """
    match d:
        case {"type": "char", "symbols": list(symbols), **rest} if not rest:
            return CharTokenizer(symbols)
        case {"type": "sentencepiece", "model": str(model), **rest} if not rest:
            if len(model) > _MAX_MODEL_BYTES * 4 // 3 + 4:
                raise TokenizerError(
                    f"expected at most {_MAX_MODEL_BYTES} bytes of model, found {len(model)} in base64"
                )
            try:
                model_proto = base64.b64decode(model, validate=True)
            except ValueError as error:
                raise TokenizerError(
                    f"expected a model in base64, found other text ({error}); export it again"
                ) from error
            return SentencePieceTokenizer(model_proto)
    expected = '{"type": "char", "symbols": [...]} or {"type": "sentencepiece", "model": "base64"}'
    raise TokenizerError(
        f"expected a tokenizer as {expected}, found {reprlib.repr(d)}; the file is damaged or not a tokenizer's"
    )


def _without_blanks(ids: Iterable[int], vocab_size: int) -> list[int]:
    ids = list(ids)
    if outside := sorted({id for id in ids if not 0 <= id < vocab_size}):
        expected = f"token ids from 0 to {vocab_size - 1}"
        raise TokenizerError(f"expected {expected}, found {outside[:5]}; the ids are another tokenizer's")
    return [id for id in ids if id != BLANK]


def _lacks(missing: set[str], text: str) -> TokenizerError:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    found = f"{_listed(sorted(missing))} in {shown!r}"
    return TokenizerError(f"expected only characters with a token, found {found}; normalise the text or spell them out")


def _listed(symbols: Sequence[str]) -> str:
    more = f" and {len(symbols) - 10} more" if len(symbols) > 10 else ""
    return ", ".join(repr(symbol) for symbol in symbols[:10]) + more


def _training_failure(vocab_size: int, reason: str) -> str:
    # sentencepiece's counts are without the blank.
    if too_large := re.search(r"to a value <= (\d+)", reason):
        limit = int(too_large[1]) + 1
        return f"expected a vocab_size of at most {limit} for these texts, found {vocab_size}; lower it or add text"
    if too_small := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        limit = int(too_small[1]) + 1
        return f"expected a vocab_size of at least {limit}, for all characters, found {vocab_size}; raise it"
    if "sentences_.empty()" in reason:
        return "expected texts to train on, found none that has a character; check where they come from"
    return f"expected texts that sentencepiece can train on, found that it fails ({reason}); check the arguments"
