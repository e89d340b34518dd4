"""The recogniser: features, encoder, CTC head, tokenizer; saved as and loaded from one self-describing file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sru_asr.ctc import CTCHead
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.encoder import FACTORS, Encoder
from sru_asr.features import FRAMES_PER_SECOND, LOG_FLOOR, LogMel
from sru_asr.text import Tokenizer, tokenizer_from_dict
from sru_asr.transcribe import Audio, Transcript, transcribe
from sru_asr.whole import whole

CHECKPOINT_NAME = "model.safetensors"
FORMAT = 3
# 1 had features whose windows began with their hop, and no choice of subsampling. 2 had this floor, and did not say so.
FLOOR_OF_FORMAT_2 = 1e-6
MOST_DELAY = 100  # frames
SHIPPED = Path(__file__).parent / "models" / "alphanum-en"
# The mel filters and the window are recomputed, not stored.
_DERIVED = ("features.mel.", "features.spectrum.")
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or not one of this project's."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the architecture.

    Attributes:
        n_mels: mel bands.
        channels: channels of the subsampling convolutions.
        hidden_size: width of each direction of the SRU.
        num_layers: SRU layers.
        dropout: dropped units between layers (variational) and before the head.
        subsampling: features of 10 ms to a frame of the encoder, 4 or 2.
        floor: power of a mel band below which nothing is told apart.
    """

    n_mels: int = 80
    channels: int = 32
    hidden_size: int = 256
    num_layers: int = 6
    dropout: float = 0.1
    subsampling: int = 4
    floor: float = LOG_FLOOR

    def __post_init__(self) -> None:
        limits = {"n_mels": (4, 512), "channels": (1, 4096), "hidden_size": (1, 16384), "num_layers": (1, 256)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"model {name} must be an integer from {low} to {high}, found {value!r}")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout <= 0.99:
            raise ValueError(f"model dropout must be a number from 0.0 to 0.99, found {self.dropout!r}")
        if type(self.subsampling) is not int or self.subsampling not in FACTORS:
            raise ValueError(f"model subsampling must be {' or '.join(map(str, FACTORS))}, found {self.subsampling!r}")
        if type(self.floor) is not float or not 1e-30 <= self.floor <= 1:
            raise ValueError(f"model floor must be a power from 1e-30 to 1.0, found {self.floor!r}")


class Recognizer(nn.Module):
    """Waveforms to CTC log-probabilities, and to text.

    Args:
        config: the architecture.
        tokenizer: the vocabulary.

    Attributes:
        delay: frames by which it has been taught to emit tokens later than CTC does by itself (`LossConfig.delay`).
            Times of words allow for it.
        training_data: what the checkpoint says of its making (data sets, WER); free-form, JSON-able.
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.delay = 0
        self.training_data: dict[str, Any] = {}
        self.features = LogMel(config.n_mels, config.floor)
        self.encoder = Encoder(
            config.n_mels,
            config.channels,
            config.hidden_size,
            config.num_layers,
            config.dropout,
            config.subsampling,
        )
        self.ctc = CTCHead(self.encoder.width, tokenizer.vocab_size, config.dropout)

    @property
    def frames_per_second(self) -> float:
        """Frames of `log_probs` per second of audio."""
        return FRAMES_PER_SECOND / self.config.subsampling

    @property
    def device(self) -> torch.device:
        """Where the weights are; audio is taken there to be recognised."""
        return self.features.mean.device

    def forward(self, waveform: Tensor, lengths: Tensor, chunk: int = 0, lookahead: int = 0) -> tuple[Tensor, Tensor]:
        """Log-probabilities of whole utterances.

        Args:
            waveform: (batch, samples) float32 in [-1, 1] at 16 kHz.
            lengths: (batch,) int64, samples.
            chunk: frames of `log_probs` that a live recogniser would emit at a time; 0 for full context.
            lookahead: frames it would see beyond them.

        Returns:
            log_probs (batch, frames, vocab) float32 and the lengths in frames.
        """
        features, lengths = self.features(waveform, lengths)
        return self.log_probs(features, lengths, chunk, lookahead)

    def log_probs(self, features: Tensor, lengths: Tensor, chunk: int = 0, lookahead: int = 0) -> tuple[Tensor, Tensor]:
        """As `forward`, from features: (batch, frames, n_mels), zero behind each length."""
        states, lengths = self.encoder(features, lengths, chunk, lookahead)
        return self.ctc(states), lengths

    @overload  # (A string is a sequence of strings, too, but the first that fits counts.)
    def transcribe(self, audio: Audio, decoding: Decoding = ...) -> Transcript: ...  # type: ignore[overload-overlap]
    @overload
    def transcribe(self, audio: Sequence[Audio], decoding: Decoding = ...) -> list[Transcript]: ...
    def transcribe(self, audio: Audio | Sequence[Audio], decoding: Decoding = GREEDY) -> Transcript | list[Transcript]:
        """Recognise speech on the device of the weights.

        Args:
            audio: path of an audio file of any rate and number of channels; or a waveform, (samples,) float32 in
                [-1, 1] at 16 kHz; or a list, or another sequence, of those. Files longer than half a minute are
                read and recognised piece by piece, so that memory does not grow with them.
            decoding: greedy, or by a search; `sru_asr.read_decoding` makes one of files.

        Returns:
            A `Transcript`, or a list of them for a list.

        Raises:
            AudioError: a file cannot be read, or a waveform is empty, too short or not finite.
        """
        if isinstance(audio, Sequence) and not isinstance(audio, str | bytes):
            return [transcribe(self, one, decoding) for one in audio]
        return transcribe(self, audio, decoding)

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write the checkpoint, atomically: weights, feature statistics, architecture, tokenizer. No pickle.

        Args:
            path: the file.
            dtype: to store the weights in, such as `torch.float16`, which halves the file; None leaves them as they
                are. Loaded, they are float32 again.

        Raises:
            ValueError: none of the dtypes is loaded again, or a weight is not finite in it; nothing has been written.
        """
        path = Path(path)
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"expected a dtype of {', '.join(map(str, sorted(_DTYPES, key=str)))}, found {dtype}")
        description = {
            "format": FORMAT,
            "config": asdict(self.config),
            "tokenizer": self.tokenizer.to_dict(),
            "delay": self.delay,
            "training": self.training_data,
        }
        tensors = {
            name: tensor.detach().cpu().to(dtype or tensor.dtype).contiguous()
            for name, tensor in self.state_dict().items()
            if not name.startswith(_DERIVED)
        }
        if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
            raise ValueError(f"expected finite weights, found others in {', '.join(bad[:3])}: {path} is not written")
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            # Through Python, because what safetensors writes itself nobody but the owner may read.
            part.write_bytes(save(tensors, metadata={"sru_asr": json.dumps(description)}))


def load_model(path: str | os.PathLike[str] = SHIPPED) -> Recognizer:
    """Load a checkpoint, ready to transcribe.

    Nothing in the file is executed: it is a safetensors file whose header says, in JSON, what the weights are.

    Args:
        path: the file, or a folder that holds it as `model.safetensors` (a recipe's output folder). By default, and as
            `alphanum-en`, the model that comes with the package: English letters, digits, numbers, dates and commands.

    Returns:
        The recogniser in evaluation mode, on the CPU, float32.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is not a checkpoint of this project.
    """
    path = Path(path)
    if path == Path(SHIPPED.name) and not path.exists():
        path = SHIPPED
    if path.is_dir():
        path = path / CHECKPOINT_NAME
    if not path.is_file():
        raise CheckpointError(
            f"no model at {path}: expected a {CHECKPOINT_NAME} as a recipe's train.py writes it, or {SHIPPED.name}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); is it damaged or of another kind?"
        ) from error
    try:
        config, tokenizer, delay, training = _described(metadata)
        with torch.device("meta"):  # shapes only: a lie about sizes must not cost memory
            expected = {
                name: tensor.shape
                for name, tensor in Recognizer(config, tokenizer).state_dict().items()
                if not name.startswith(_DERIVED)
            }
    except (KeyError, RecursionError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path} is not a checkpoint of sru_asr: {reason}") from error
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        shapes = [tuple(of[names[0]]) if names[0] in of else "nothing" for of in (expected, found)]
        raise CheckpointError(
            f"{path}: the weights do not fit the architecture and vocabulary it describes: "
            f"expected {shapes[0]} for {names[0]}, found {shapes[1]}; it is damaged, or put together by hand"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or not torch.isfinite(tensor.float()).all():
            raise CheckpointError(
                f"{path}: expected finite numbers for {name}, found {tensor.dtype} that is or has none; it is damaged"
            )
    model = Recognizer(config, tokenizer).float()  # whatever torch's default is
    model.load_state_dict(tensors, strict=False)
    model.delay = delay
    model.training_data = training
    return model.eval()


def _described(metadata: dict[str, str]) -> tuple[ModelConfig, Tokenizer, int, dict[str, Any]]:
    """Read a checkpoint's header; every surprise is a ValueError, RecursionError or KeyError."""
    if "sru_asr" not in metadata:
        raise ValueError("its header has no 'sru_asr' entry")
    description = json.loads(metadata["sru_asr"])
    if not isinstance(description, dict):
        raise ValueError("its description is not a JSON object")
    if type(description["format"]) is not int or description["format"] not in {2, FORMAT}:
        raise ValueError(
            f"it has format {description['format']!r}, this version reads 2 and {FORMAT}: a higher one needs a newer "
            "version of sru-asr, a lower one an older version, or a new training"
        )
    known = {field.name for field in fields(ModelConfig)}
    config = description["config"]
    if isinstance(config, dict) and description["format"] == 2:
        config = {"floor": FLOOR_OF_FORMAT_2, **config}
    if not isinstance(config, dict) or set(config) != known:
        raise ValueError(f"its architecture should have the entries {', '.join(sorted(known))}")
    delay = description.get("delay", 0)
    if type(delay) is not int or not 0 <= delay <= MOST_DELAY:
        raise ValueError(f"its delay should be a number of frames from 0 to {MOST_DELAY}, found {delay!r}")
    training = description.get("training")
    return (
        ModelConfig(**config),
        tokenizer_from_dict(description["tokenizer"]),
        delay,
        training if isinstance(training, dict) else {},
    )


def folder_of(model: Path) -> str:
    """The name of a model: that of its folder, if it is given as the file in it, too."""
    model = model.resolve()
    return model.parent.name if model.name == CHECKPOINT_NAME else model.name
