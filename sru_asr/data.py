"""From cuts to batches: loading audio, and the order in which a training sees it.

The order is our own, because Lhotse's samplers cannot say how many batches an epoch has before they have run it, which
a learning rate schedule has to know, and to resume within an epoch go through all of it that is over.
"""

import math
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle, islice, pairwise
from typing import NamedTuple

import torch
from lhotse import CutSet
from lhotse.audio import set_audio_duration_mismatch_tolerance
from lhotse.audio.backend import LibsndfileBackend, set_current_audio_backend
from lhotse.cut import Cut
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from sru_asr.audio import LOUDEST, SAMPLE_RATE, AudioError, read, resample
from sru_asr.augment import AugmentConfig, Augmented
from sru_asr.manifest import TOLERANCE_SECONDS, describe, file_of, place
from sru_asr.text import BLANK, Tokenizer, normalize

# With fewer batches to a bucket, the same utterances meet in every epoch; with more, padding grows. With 4, an epoch of
# AN4 in batches of 60 s is 7 % padding, one of speechocean762 in batches of 120 s 4 %.
BATCHES_PER_BUCKET = 4
MAX_BUCKETS = 64
# Utterances that are joined to one: how many, and how much speech, at most.
MOST_JOINED = 6
LONGEST_JOINED_SECONDS = 16.0


class Batch(NamedTuple):
    """Utterances side by side, with what is known of each."""

    waveforms: Tensor  # (batch, samples) float32, zero behind each length
    lengths: Tensor  # (batch,) int64, in samples
    targets: Tensor  # (batch, tokens) int64, the blank behind each length
    target_lengths: Tensor  # (batch,) int64
    texts: list[str]  # normalised transcripts
    ids: list[str]
    speakers: list[str]  # "" where unknown


def load_waveform(cut: Cut, speed: float = 1.0) -> Tensor:
    """Decodes the audio of a cut: as transcription does where it is all of a file, else by Lhotse.

    Rate and speed are changed in one pass of soxr: 2 to 8 ms per 10 s, whatever the rates. (Lhotse makes two passes of
    it: 1 to 17 ms, but 900 ms where the rates have no large common divisor.)

    Args:
        cut: Of any number of channels, which are averaged.
        speed: As in `read`.

    Returns:
        (samples,) float32 at `SAMPLE_RATE`.

    Raises:
        AudioError: Naming the line of the manifest, cut and file, if there is no audio of finite samples.
    """
    if path := file_of(cut):
        try:
            return read(path, speed=speed)
        except AudioError as error:
            raise AudioError(f"{place(cut)}: {error}") from error
    _set_up_lhotse()
    outer = sys.exc_info()[1]
    try:
        samples = cut.load_audio()
    except Exception as error:
        cause: BaseException = error
        while cause.__context__ not in (None, outer):  # Lhotse's handlers raise errors of their own over the first
            cause = cause.__context__
        if is_lost_worker(cause):  # torch says so wherever the main process is, and it may be here
            raise cause from None
        raise AudioError(f"{describe(cut)}: cannot be read: {cause}") from error
    if samples is None:
        raise AudioError(f"{describe(cut)}: has no audio")
    waveform = torch.from_numpy(samples.mean(0))
    if not (waveform.abs() <= LOUDEST).all():
        raise AudioError(f"{describe(cut)}: holds samples that are not finite numbers, about -1 to 1")
    return resample(waveform, round(cut.sampling_rate * speed), SAMPLE_RATE)


def is_lost_worker(error: BaseException) -> bool:
    """Whether it is torch's for a process that loads audio and has ended, which may be raised anywhere."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@cache
def _set_up_lhotse() -> None:
    """Chooses how Lhotse reads audio, once a process: the choices are globals, which spawned workers do not inherit."""
    # Left to itself, it takes whatever works of libsndfile, sph2pipe, FFmpeg and others, which do not agree on the rate
    # and length of a file.
    set_current_audio_backend(LibsndfileBackend())
    # And of a file that is too short by up to half a second it mirrors the end.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        set_audio_duration_mismatch_tolerance(TOLERANCE_SECONDS)


class SpeechDataset(Dataset[Batch]):
    """Loads the batches that a `BatchSampler` names.

    Args:
        tokenizer: Encodes the targets. With None they are empty: recognition is measured on texts, which may hold what
            no token stands for.
        seed: What speeds and changes are drawn from, with epoch and cut id.
        speeds: Factors to choose from.
        augment: How waveforms are changed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        seed: int = 0,
        speeds: Sequence[float] = (1.0,),
        augment: AugmentConfig | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.speeds = tuple(speeds)
        self.augment = augment or AugmentConfig.none()

    def speed(self, epoch: int, cut_id: str) -> float:
        """The factor for a cut in an epoch, the same in every process, order and resumed run."""
        return random.Random(f"{self.seed} {epoch} {cut_id}").choice(self.speeds)

    def __getitem__(self, index: tuple[int, CutSet]) -> Batch:
        epoch, cuts = index
        groups = self._groups(epoch, list(cuts))
        changes = [Augmented(self.augment, f"{self.seed} {epoch} {group[0].id}") for group in groups]
        said = [[normalize(cut.supervisions[0].text or "") for cut in group] for group in groups]
        waveforms = [
            change.joined([(load_waveform(cut, self.speed(epoch, cut.id)), text) for cut, text in pairs])
            for change, pairs in zip(changes, map(zip, groups, said), strict=True)
        ]
        texts = [" ".join(parts) if change.has_speech else "" for change, parts in zip(changes, said, strict=True)]
        tokens = [self.tokenizer.encode(text) if self.tokenizer else [] for text in texts]
        return Batch(
            waveforms=pad_sequence(waveforms, batch_first=True),
            lengths=torch.tensor([len(waveform) for waveform in waveforms]),
            targets=pad_sequence([torch.tensor(t, dtype=torch.int64) for t in tokens], True, BLANK),
            target_lengths=torch.tensor([len(t) for t in tokens]),
            texts=texts,
            ids=["+".join(cut.id for cut in group) for group in groups],
            speakers=[group[0].supervisions[0].speaker or "" for group in groups],
        )

    def _groups(self, epoch: int, cuts: list[Cut]) -> list[list[Cut]]:
        """The cuts of a batch, each by itself or, in some batches, some of them together."""
        draw = random.Random(f"{self.seed} {epoch} {cuts[0].id} joined")
        size = 1
        if self.augment.join and draw.random() < self.augment.join:
            longest = max(cut.duration for cut in cuts)
            size = min(draw.randint(2, MOST_JOINED), max(int(LONGEST_JOINED_SECONDS / longest), 1))
        return [cuts[i : i + size] for i in range(0, len(cuts), size)]


class BatchSampler(Sampler[tuple[int, CutSet]]):
    """Names the cuts of each batch of this rank, as `(epoch, cuts)`.

    Cuts are sorted by duration into buckets, and a bucket always gives the same number of batches, each small enough
    for the longest cut of its bucket. In training the cuts of a bucket are shuffled among its batches, and the batches
    among each other, by seed and epoch. So every epoch has each utterance once, and the same number of batches.

    The batches of one optimizer step, over all ranks and over those that gradients are accumulated over, come from one
    bucket where possible, so that no rank waits for one with longer utterances; batches are split until there are
    enough of them for every step to be whole. (Only if there are too few utterances for that, batches are repeated.)
    Two ranks and one that accumulates two batches see the same. Evaluation repeats nothing: a rank may have a batch
    more than another.

    Args:
        cuts: The utterances.
        max_seconds: The most audio in a batch, padding included, before any are joined. A longer utterance is a batch
            of its own.
        training: Whether to shuffle, and to give each rank the same number of batches.
        padding_seconds: What augmentation may add to each cut.
        seed: What the order is drawn from, with the epoch.
        rank: This process.
        world_size: The number of processes.
        accumulate: The batches that each rank takes for one optimizer step.

    Raises:
        ValueError: If there are no cuts, fewer than ranks in evaluation, or the limits make no sense.
    """

    def __init__(
        self,
        cuts: CutSet,
        *,
        max_seconds: float,
        training: bool,
        padding_seconds: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        if not max_seconds > 0 or not 0 <= rank < world_size or accumulate < 1:
            raise ValueError(f"expected {max_seconds=} above 0, {rank=} in [0, {world_size=}), {accumulate=} above 0")
        self._cuts = sorted(cuts, key=lambda cut: (cut.duration, cut.id))
        if not self._cuts or not self._cuts[0].duration > 0:
            raise ValueError("expected utterances, all longer than 0 s")
        self.training = training
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self._buckets = _buckets([cut.duration + padding_seconds for cut in self._cuts], max_seconds)
        if training or sum(n for _, n in self._buckets) < world_size:
            _split_evenly(self._buckets, world_size * (accumulate if training else 1))
        if not training and len(self._cuts) < world_size:  # a rank without a batch Lightning refuses
            raise ValueError(f"expected an utterance for each of {world_size} processes, found {len(self._cuts)}")
        self._epoch = 0
        self._skipped = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields; Lightning calls this."""
        self._epoch = epoch

    def skip(self, epoch: int, n_batches: int, is_over: bool = False) -> None:
        """Resumes: sets the epoch, and leaves out its first batches until told otherwise.

        That it lasts, and sets the epoch, is for Lightning, which creates the first iterator of a resumed run before it
        calls `set_epoch`. With workers that iterator asks at once for what it will give: of an epoch that was over,
        for the next one's. An epoch may be over before its last batch, by Lightning's `limit_train_batches`.
        """
        self._skipped = (epoch, n_batches)
        self.set_epoch(epoch + (is_over or n_batches >= len(self)))

    def __len__(self) -> int:
        """The number of batches of a whole epoch on this rank."""
        n_batches = sum(n for _, n in self._buckets)
        if self.training:
            return math.ceil(n_batches / (self.world_size * self.accumulate)) * self.accumulate
        return len(range(self.rank, n_batches, self.world_size))

    def __iter__(self) -> Iterator[tuple[int, CutSet]]:
        epoch = self._epoch
        skipped_epoch, n_skipped = self._skipped
        for batch in self._plan(epoch)[n_skipped if epoch == skipped_epoch else 0 :]:
            yield epoch, CutSet.from_cuts(self._cuts[i] for i in batch)

    def _plan(self, epoch: int) -> list[list[int]]:
        """The positions of the cuts of each batch of this rank."""
        shuffle = random.Random(f"{self.seed} {epoch}").shuffle if self.training else lambda _: None
        batches = []
        for members, n_batches in self._buckets:
            order = list(members)
            shuffle(order)
            edges = [i * len(order) // n_batches for i in range(n_batches + 1)]
            batches += [order[start:stop] for start, stop in pairwise(edges)]
        if not self.training:
            return batches[self.rank :: self.world_size]
        everything = islice(cycle(batches), len(self) * self.world_size)
        steps = list(zip(*[everything] * (self.world_size * self.accumulate), strict=True))
        shuffle(steps)
        return [batch for step in steps for batch in step[self.rank :: self.world_size]]


def _buckets(durations: Sequence[float], max_seconds: float) -> list[tuple[range, int]]:
    """Splits ascending durations into runs, longest first, with the number of batches that each of them makes."""
    per_bucket = max(BATCHES_PER_BUCKET, int(sum(durations) / max_seconds / MAX_BUCKETS))
    buckets = []
    stop = len(durations)
    while stop:
        batch_size = max(int(max_seconds / durations[stop - 1]), 1)
        start = max(stop - batch_size * per_bucket, 0)
        buckets.append((range(start, stop), math.ceil((stop - start) / batch_size)))
        stop = start
    return buckets


def _split_evenly(buckets: list[tuple[range, int]], step: int) -> None:
    """Adds batches where they are largest, until the number of batches is a multiple of `step`."""
    for _ in range(-sum(n for _, n in buckets) % step):
        largest = max(range(len(buckets)), key=lambda i: len(buckets[i][0]) / buckets[i][1])
        members, n_batches = buckets[largest]
        if n_batches == len(members):
            return
        buckets[largest] = members, n_batches + 1


def make_loader(
    cuts: CutSet,
    tokenizer: Tokenizer | None,
    *,
    max_seconds: float,
    training: bool,
    seed: int = 0,
    speeds: Sequence[float] = (1.0,),
    augment: AugmentConfig | None = None,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
) -> DataLoader[Batch]:
    """Puts the parts together; the `BatchSampler` is the loader's `sampler`.

    Args:
        cuts: The utterances, which should have passed `validate`.
        tokenizer: Encodes the targets, or None for none.
        max_seconds: The most audio in a batch, with padding and at the slowest speed.
        training: Whether to shuffle, and to change speeds and waveforms.
        seed: What order, speeds and changes are drawn from.
        speeds: Factors for speed perturbation.
        augment: How waveforms are changed; not at all if None.
        workers: Processes that load; with 0 it happens in this one. The batches are the same.
        rank: This process of a distributed run.
        world_size: The number of its processes.
        accumulate: The batches that each of them takes for one optimizer step.
    """
    speeds = speeds if training else (1.0,)
    augment = augment if training else None
    if not speeds or min(speeds) <= 0:
        raise ValueError(f"expected speeds above 0, found {list(speeds)}")
    sampler = BatchSampler(
        cuts,
        max_seconds=max_seconds * min(speeds),
        training=training,
        padding_seconds=2 * augment.padding_seconds * min(speeds) if augment else 0.0,
        seed=seed,
        rank=rank,
        world_size=world_size,
        accumulate=accumulate,
    )
    return DataLoader(
        SpeechDataset(tokenizer, seed=seed, speeds=speeds, augment=augment),
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
