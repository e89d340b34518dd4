"""Error rates of a corpus: counts by hand, the manifest's order, faults that stop nothing, no influence of batches."""

import json
import math
import types

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from sru_asr import evaluation as module
from sru_asr import transcribe as transcribe_module
from sru_asr import tuning
from sru_asr.audio import AudioError
from sru_asr.data import load_waveform
from sru_asr.decode import greedy
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.evaluation import Evaluation, evaluate
from sru_asr.lexicon import Lexicon
from sru_asr.manifest import read_manifest
from sru_asr.metrics import ErrorCounts
from sru_asr.model import ModelConfig, Recognizer
from sru_asr.scorer import Scorer
from sru_asr.text import CharTokenizer

# Seconds, reference, hypothesis, speaker. The loudness of an utterance tells the stub what to say.
CORPUS = [
    (0.5, "hello, World!", "HELLO WORLD", "s1"),
    (1.5, "one two three", "ONE TOO", "s1"),
    (1.0, "yes", "OH YES", "s2"),
    (0.3, "Größe 5", "GROSSE", None),  # characters for which the tokenizer has no token
]
WORDS = [
    ErrorCounts(hits=2),
    ErrorCounts(hits=1, substitutions=1, deletions=1),
    ErrorCounts(hits=1, insertions=1),
    ErrorCounts(substitutions=1, deletions=1),
]
CHARACTERS = [
    ErrorCounts(hits=11),
    ErrorCounts(hits=6, substitutions=1, deletions=6),
    ErrorCounts(hits=3, insertions=3),
    ErrorCounts(hits=5, substitutions=1, deletions=2),
]


class Stub:
    """Says the hypothesis whose number is a hundred times the utterance's loudness."""

    tokenizer = CharTokenizer()
    frames_per_second = 25.0
    delay = 0
    device = torch.device("cpu")

    def __init__(self, hypotheses):
        self.hypotheses = hypotheses
        self.batches = []

    def __call__(self, waveforms, lengths, chunk=0, lookahead=0):
        self.batches.append((lengths.tolist(), chunk, lookahead))
        spoken = []
        for waveform, length in zip(waveforms, lengths, strict=True):
            loudness = waveform[:length].unique()
            assert len(loudness) == 1, "an utterance that is not only its own"
            assert not waveform[length:].any()
            # A blank behind every token, so that letters may repeat.
            tokens = self.tokenizer.encode(self.hypotheses[round(100 * loudness.item()) - 1])
            spoken.append([id for token in tokens for id in (token, 0)])
        frames = max(map(len, spoken)) + 3
        best = torch.tensor([[*ids, *[5] * (frames - len(ids))] for ids in spoken])  # what is behind is not to be read
        log_probs = torch.nn.functional.one_hot(best, self.tokenizer.vocab_size).float().log_softmax(-1)
        return log_probs, torch.tensor([len(ids) for ids in spoken])


def write_corpus(folder, corpus=CORPUS, **extra):
    entries = []
    for i, (seconds, text, _, speaker) in enumerate(corpus):
        samples = np.full(round(seconds * 16_000), (i + 1) / 100, np.float32)
        soundfile.write(folder / f"{i}.wav", samples, 16_000, subtype="FLOAT")
        entries.append({"audio": f"{i}.wav", "text": text, "speaker": speaker, **extra})
    manifest = folder / "corpus.jsonl"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    cuts, faults = read_manifest(manifest)
    assert not faults
    return cuts


@pytest.fixture
def cuts(tmp_path):
    return write_corpus(tmp_path)


@pytest.fixture
def stub():
    return Stub([hypothesis for _, _, hypothesis, _ in CORPUS])


def test_counts_are_those_by_hand(cuts, stub):
    evaluation = evaluate(stub, cuts)
    assert [result.words for result in evaluation.results] == WORDS
    assert [result.characters for result in evaluation.results] == CHARACTERS
    assert evaluation.words == ErrorCounts(hits=4, substitutions=2, deletions=2, insertions=1)
    assert evaluation.characters == ErrorCounts(hits=25, substitutions=2, deletions=8, insertions=3)
    assert evaluation.speakers == {"s1": WORDS[0] + WORDS[1], "s2": WORDS[2], "": WORDS[3]}
    assert evaluation.faults == []


def test_by_speaker_there_is_an_interval_where_all_are_named(tmp_path, stub):
    assert evaluate(stub, write_corpus(tmp_path)).wer_interval_by_speaker is None  # the last has none
    corpus = [(*one, speaker or "s3") for *one, speaker in CORPUS]
    low, high = evaluate(stub, write_corpus(tmp_path, corpus)).wer_interval_by_speaker
    assert low < 5 / 8 < high


def test_groups_are_those_of_a_field(tmp_path, stub):
    cuts = write_corpus(tmp_path)
    assert evaluate(stub, cuts).groups == {}
    assert evaluate(stub, cuts, grouped_by="speaker").groups == evaluate(stub, cuts).speakers
    manifest = tmp_path / "corpus.jsonl"
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    for entry, age in zip(entries, ("child", 40, "child", None), strict=True):
        entry["age"] = age
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    evaluation = evaluate(stub, read_manifest(manifest)[0], grouped_by="age")
    assert evaluation.groups == {"child": WORDS[0] + WORDS[2], "40": WORDS[1], "": WORDS[3]}
    written = evaluation.to_dict()
    assert written["grouped_by"] == "age"
    assert written["groups"]["40"] == WORDS[1].to_dict()
    assert [result["group"] for result in written["results"]] == ["child", "40", "child", ""]
    of_lhotse = tmp_path / "lhotse.jsonl"
    cuts = CutSet.from_cuts(cuts).to_eager()
    for cut, gender in zip(cuts, "fmfm", strict=True):
        cut.supervisions[0].gender = gender
        cut.custom = {"noise": {"a": 1}}
    cuts.to_file(of_lhotse)
    cuts, faults = read_manifest(of_lhotse)
    assert not faults
    assert evaluate(stub, cuts, grouped_by="gender").groups == {"f": WORDS[0] + WORDS[2], "m": WORDS[1] + WORDS[3]}
    assert set(evaluate(stub, cuts, grouped_by="noise").groups) == {""}


def test_results_are_in_the_manifests_order_and_normalised(cuts, stub):
    results = evaluate(stub, cuts).results
    assert [result.id for result in results] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert [result.reference for result in results] == ["HELLO WORLD", "ONE TWO THREE", "YES", "GRÖSSE 5"]
    assert [result.hypothesis for result in results] == [hypothesis for _, _, hypothesis, _ in CORPUS]
    assert [result.speaker for result in results] == ["s1", "s1", "s2", ""]
    assert [result.seconds for result in results] == [0.5, 1.5, 1.0, 0.3]


def test_an_id_that_comes_twice_mixes_nothing_up(tmp_path, stub):
    results = evaluate(stub, write_corpus(tmp_path, id="same")).results
    assert [result.id for result in results] == ["same"] * 4
    assert [result.words for result in results] == WORDS


@pytest.mark.parametrize(
    ("max_batch_seconds", "sizes"),
    [(0.1, [1, 1, 1, 1]), (2.0, [1, 2, 1]), (3.0, [2, 2]), (4.5, [3, 1]), (6.0, [4]), (100.0, [4])],
)
def test_batches_hold_what_they_may_and_change_nothing(cuts, stub, max_batch_seconds, sizes):
    expected = evaluate(stub, cuts)
    stub.batches.clear()
    assert evaluate(stub, cuts, max_batch_seconds=max_batch_seconds) == expected
    assert [len(lengths) for lengths, _, _ in stub.batches] == sizes
    for lengths, _, _ in stub.batches:
        assert len(lengths) == 1 or len(lengths) * max(lengths) <= max_batch_seconds * 16_000


def test_the_window_is_the_models(cuts, stub):
    evaluate(stub, cuts, chunk=7, lookahead=3)
    assert stub.batches == [([24_000, 16_000, 8_000, 4_800], 7, 3)]


def test_progress_is_told_of_every_cut(cuts, stub):
    seen = []

    def progress(items, total):
        assert total == 4
        for item in items:
            seen.append(item)
            yield item

    evaluate(stub, cuts, progress=progress)
    assert len(seen) == 4


# Faults


def test_what_cannot_be_read_is_named_and_stops_nothing(tmp_path, stub):
    corpus = [
        *CORPUS,
        (1.2, "gone", "", None),
        (1.4, "cut", "", None),
        (0.9, "nan", "", None),
        (0.01, "short", "", None),
    ]
    cuts = write_corpus(tmp_path, corpus)
    (tmp_path / "4.wav").unlink()
    (tmp_path / "5.wav").write_bytes((tmp_path / "5.wav").read_bytes()[:1_000])
    samples, _ = soundfile.read(tmp_path / "6.wav")
    samples[-1] = np.nan
    soundfile.write(tmp_path / "6.wav", samples, 16_000, subtype="FLOAT")
    evaluation = evaluate(stub, cuts)
    assert [result.words for result in evaluation.results] == WORDS
    for i, fault in zip(range(4, 8), evaluation.faults, strict=True):
        assert fault.startswith(f"{tmp_path}/corpus.jsonl:{i + 1}: {i}.wav: ")
    assert "finite" in evaluation.faults[2]
    assert "at least 400 samples, found 160" in evaluation.faults[3]


def test_if_nothing_can_be_read_there_are_faults_only(tmp_path, cuts, stub):
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    evaluation = evaluate(stub, cuts)
    assert evaluation.results == []
    assert len(evaluation.faults) == 4
    assert stub.batches == []
    json.dumps(evaluation.to_dict(), allow_nan=False)


# What is reported


def test_the_json_has_rates_as_fractions_and_counts(cuts, stub):
    found = json.loads(json.dumps(evaluate(stub, cuts).to_dict(), allow_nan=False))
    assert found["wer"] == 5 / 8
    assert found["cer"] == 13 / 35
    assert found["utterances"] == 4
    assert found["seconds"] == 3.3
    assert found["words"] == {
        "hits": 4,
        "substitutions": 2,
        "deletions": 2,
        "insertions": 1,
        "reference": 8,
        "errors": 5,
        "rate": 5 / 8,
    }
    assert found["characters"]["errors"] == 13
    assert set(found["speakers"]) == {"s1", "s2"}
    assert found["speakers"]["s1"]["rate"] == 2 / 5
    assert found["faults"] == []
    assert found["results"][1] == {
        "id": "1.wav",
        "speaker": "s1",
        "group": "",
        "seconds": 1.5,
        "reference": "ONE TWO THREE",
        "hypothesis": "ONE TOO",
        "words": WORDS[1].to_dict(),
        "confidences": found["results"][1]["confidences"],
        "missed": False,
    }
    assert len(found["results"][1]["confidences"]) == 2
    assert found["scoring"].endswith("version 3")
    low, high = found["wer_interval"]
    assert 0 <= low <= 5 / 8 <= high


def test_the_summary_has_both_rates_and_what_they_are_of(cuts, stub):
    wer, cer, sure, calibrated, blame = evaluate(stub, cuts).summary().split("\n")
    assert "by utterance" in sure
    assert "calibration error" in calibrated
    assert "the search missed" in blame
    assert wer == ("WER  62.50 %   8 words in 4 utterances: 4 hits, 2 substitutions, 2 deletions, 1 insertions")
    assert cer == ("CER  37.14 %   35 characters in 4 utterances: 25 hits, 2 substitutions, 8 deletions, 3 insertions")


def test_references_without_words_count_insertions(tmp_path):
    evaluation = evaluate(Stub(["OH NO", ""]), write_corpus(tmp_path, [(0.5, "...", "", None), (0.5, "", "", None)]))
    assert evaluation.words == ErrorCounts(insertions=2)
    assert math.isinf(evaluation.words.rate)
    assert json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))["wer"] is None
    assert "inf %" in evaluation.summary()


def test_no_utterances_are_no_errors():
    assert Evaluation([]).words == ErrorCounts()
    assert Evaluation([]).to_dict()["wer"] == 0


# A real model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=2), CharTokenizer())
    model.features.mean.fill_(-5.0)
    model.features.scale.fill_(0.5)
    with torch.no_grad():
        model.ctc.linear.weight *= 4
    return model.eval()


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noises")
    rng = np.random.default_rng(0)
    lines = []
    for i, seconds in enumerate([1.0, 0.4, 2.6, 0.03, 1.7, 3.1, 0.9]):
        loudness = np.repeat(rng.uniform(0, 0.3, 400), 800)[: round(16_000 * seconds)]
        soundfile.write(folder / f"{i}.wav", loudness * rng.standard_normal(len(loudness)), 16_000)
        lines.append(json.dumps({"audio": f"{i}.wav", "text": "SOME WORDS"}) + "\n")
    (folder / "noises.jsonl").write_text("".join(lines))
    return read_manifest(folder / "noises.jsonl")[0]


@pytest.mark.parametrize("window", [(0, 0), (6, 4)])
def test_hypotheses_do_not_depend_on_the_size_of_batches(model, noises, window):
    chunk, lookahead = window
    expected = evaluate(model, noises, max_batch_seconds=0.1, chunk=chunk, lookahead=lookahead)
    assert len({result.hypothesis for result in expected.results}) > 2  # there is something to tell apart
    for max_batch_seconds in (3.5, 7.0, 1_000.0):
        found = evaluate(model, noises, max_batch_seconds=max_batch_seconds, chunk=chunk, lookahead=lookahead)
        assert found == expected


def test_hypotheses_are_what_transcribe_says(model, noises):
    found = evaluate(model, noises).results
    paths = [cut.recording.sources[0].source for cut in noises]
    assert [result.hypothesis for result in found] == [t.text for t in model.transcribe(paths)]


@pytest.mark.parametrize("name", ["wav called.raw", "endless.flac", "bare.mp3", "bare variable.mp3"])
def test_files_are_read_as_transcribe_reads_them(model, tmp_path, name):
    """Lhotse has other opinions of these, so that what could be transcribed could not be evaluated."""
    path = tmp_path / name
    rng = np.random.default_rng(0)
    samples = np.concatenate([0.5 * rng.standard_normal(16_000 * 2), np.zeros(16_000 * 20)]).clip(-1, 1)
    if path.suffix == ".raw":
        soundfile.write(path, samples, 16_000, format="WAV")
    elif path.suffix == ".flac":
        soundfile.write(path, samples, 16_000)
        content = bytearray(path.read_bytes())
        content[21] &= 0xF0  # the 36 bits that count the samples
        content[22:26] = bytes(4)
        path.write_bytes(content)
    else:
        mode = "VARIABLE" if "variable" in name else "CONSTANT"
        soundfile.write(path, samples, 16_000, bitrate_mode=mode, compression_level=0.5)
        path.write_bytes(path.read_bytes().replace(b"Xing", b"gniX").replace(b"Info", b"ofnI"))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio": name, "text": "SOME WORDS"}))
    cuts, faults = read_manifest(manifest)
    if "variable" in name:
        with pytest.raises(AudioError) as error:
            model.transcribe(path)
        assert faults == [f"{manifest}:1: {error.value}"]
    else:
        expected = model.transcribe(path)
        (result,) = evaluate(model, cuts).results
        assert (result.hypothesis, result.seconds) == (expected.text, expected.seconds)


def test_long_files_are_never_whole_in_memory(model, noises, monkeypatch):
    for of in (module, transcribe_module):
        monkeypatch.setattr(of, "LONGEST_WHOLE_SECONDS", 2)
    loaded = []
    monkeypatch.setattr(module, "load_waveform", lambda cut: loaded.append(cut.duration) or load_waveform(cut))
    assert len(evaluate(model, noises).results) == 7
    assert sorted(loaded) == [0.03, 0.4, 0.9, 1.0, 1.7]


def test_long_files_are_not_whole_in_memory_in_windows_either(model, noises, monkeypatch):
    expected = [result.hypothesis for result in evaluate(model, noises, chunk=3, lookahead=2).results]
    for of in (module, transcribe_module):
        monkeypatch.setattr(of, "LONGEST_WHOLE_SECONDS", 2)
    loaded = []
    monkeypatch.setattr(module, "load_waveform", lambda cut: loaded.append(cut.duration) or load_waveform(cut))
    assert [result.hypothesis for result in evaluate(model, noises, chunk=3, lookahead=2).results] == expected
    assert sorted(loaded) == [0.03, 0.4, 0.9, 1.0, 1.7]


def test_what_a_language_model_is_tuned_on_is_recognised_as_files_are(model, noises, monkeypatch, tmp_path):
    for of in (tuning, transcribe_module):
        monkeypatch.setattr(of, "LONGEST_WHOLE_SECONDS", 2)
    heard, faults = tuning.hear(model, noises, 3600, lambda numbers, _: numbers)
    assert faults == []
    first = next(iter(noises))
    short = CutSet.from_cuts([first.truncate(duration=0.01, preserve_id=True), first])
    (one,), (fault,) = tuning.hear(model, short, 0.5, lambda numbers, _: numbers)  # the first, though it is longer
    assert torch.equal(one[1], heard[0][1])
    assert "0.wav): expected at least 400 samples, found 160" in fault
    found = [model.tokenizer.decode(greedy(rows[None], torch.tensor([len(rows)]))[0].tokens) for _, rows in heard]
    paths = [cut.recording.sources[0].source for cut in noises if cut.duration >= 0.03]
    assert [" ".join(text.split()) for text in found] == [t.text for t in model.transcribe(paths)]


def test_a_fault_of_a_long_file_has_its_line(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.append(np.zeros(31 * 16_000), np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": "SOME WORDS", "id": "u"}')
    (fault,) = evaluate(model, read_manifest(tmp_path / "m.jsonl")[0]).faults
    assert fault.startswith(f"{tmp_path}/m.jsonl:1: u: {tmp_path}/a.wav: expected samples")


def test_long_utterances_are_recognised_in_windows_as_transcribe_does(model, noises, monkeypatch):
    whole = [result.hypothesis for result in evaluate(model, noises).results]
    for of in (module, transcribe_module):
        monkeypatch.setattr(of, "LONGEST_WHOLE_SECONDS", 2)
    monkeypatch.setattr(transcribe_module, "LONG_CHUNK_SECONDS", 0.2)
    monkeypatch.setattr(transcribe_module, "LONG_LOOKAHEAD_SECONDS", 0.04)
    found = [result.hypothesis for result in evaluate(model, noises).results]
    assert [a == b for a, b in zip(found, whole, strict=True)] == [True, True, False, True, True, False, True]
    paths = [cut.recording.sources[0].source for cut in noises]
    assert found == [t.text for t in model.transcribe(paths)]


def test_the_search_is_to_blame_where_it_missed_a_likelier_text():
    """Of A and B with a blank or without, the best path is one of less than half; all others say A."""
    tokenizer = CharTokenizer("AB")
    model = types.SimpleNamespace(tokenizer=tokenizer)
    # blank 0.4, A 0.35, B 0.25, twice: the best path is empty, 0.16; A is 0.35^2 + 2 0.35 0.4 = 0.40.
    log_probs = torch.tensor([[0.4, 0.35, 0.25]] * 2).log()
    assert module._missed(log_probs, [], "A", model, GREEDY) is True
    assert module._missed(log_probs, tokenizer.encode("A"), "B", model, GREEDY) is False
    assert module._missed(log_probs, [], "AB" * 3, model, GREEDY) is False  # there is no room for it
    assert module._missed(log_probs, [], "C", model, GREEDY) is None
    lexicon = Decoding(Scorer(lexicon=Lexicon(["B"])), 4)
    assert module._missed(log_probs, tokenizer.encode("B"), "A", model, lexicon) is False
    assert module._decode(log_probs, model, lexicon).tokens == tokenizer.encode("B")
