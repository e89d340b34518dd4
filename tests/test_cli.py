"""The command line: what goes to standard output and what to standard error, exit statuses, and how it ends early."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sru_asr import __version__, cli, script
from sru_asr.audio import read
from sru_asr.commands import serve
from sru_asr.decode import greedy
from sru_asr.evaluation import evaluate
from sru_asr.manifest import read_manifest
from sru_asr.model import CHECKPOINT_NAME, ModelConfig, Recognizer, folder_of, load_model
from sru_asr.subtitles import srt
from sru_asr.text import CharTokenizer
from sru_asr.windows import window_of

# What a process prints waits in a buffer until it is flushed.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
RECIPES = Path(__file__).parents[1] / "recipes"
COMMANDS = ["transcribe", "stream", "evaluate", "serve", "info", "lm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, four audio files and one that is none."""
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    model = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=6), CharTokenizer())
    model.features.mean.fill_(-5.0)
    model.features.scale.fill_(0.5)
    model.save(folder / CHECKPOINT_NAME)
    rng = np.random.default_rng(0)
    for i, name in enumerate("abc"):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(8_000 * (i + 1)), 16_000)
    soundfile.write(folder / "long.wav", 0.1 * rng.standard_normal(60 * 16_000), 16_000)
    (folder / "text.wav").write_text("HELLO WORLD\n" * 20)
    return folder


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def said(folder):
    """What the model says, by file."""
    model = load_model(folder)
    return {name: model.transcribe(folder / name) for name in ("a.wav", "b.wav", "c.wav")}


def run(capsys, *argv):
    """Exit status, lines of standard output, standard error."""
    try:
        status = cli.main([str(arg) for arg in argv])
    except SystemExit as end:  # argparse
        status = end.code
    output, error = capsys.readouterr()
    return status, output.splitlines(), error


def write_manifest(folder, *entries):
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


# transcribe


def test_one_file_is_its_text(capsys, said):
    assert run(capsys, "transcribe", "--model", ".", "b.wav") == (0, [said["b.wav"].text], "")
    assert said["b.wav"].text


def test_who_looks_sees_how_far_a_long_file_is(tmp_path, folder):
    """On a terminal of its own, which is not where the text goes."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(70 * 16_000, np.int16), 16_000)
    shown, terminal = pytest.importorskip("pty").openpty()
    environment = os.environ | {"TERM": "xterm"}
    command = [sys.executable, "-m", "sru_asr.cli", "transcribe", "--model", str(folder), str(path)]
    seen = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        os.close(terminal)
        with contextlib.suppress(OSError):  # as which the end of a terminal shows on Linux
            while piece := os.read(shown, 1 << 16):
                seen += piece
        text = process.stdout.read()
    os.close(shown)
    assert process.returncode == 0
    assert b"100%" in seen
    assert b"%" not in text


def test_several_files_are_a_line_each_with_the_name_before_a_tab(capsys, said):
    status, output, error = run(capsys, "transcribe", "--model", CHECKPOINT_NAME, "b.wav", "a.wav", "c.wav")
    assert (status, error) == (0, "")
    assert output == [f"{name}\t{said[name]}" for name in ("b.wav", "a.wav", "c.wav")]


@pytest.mark.parametrize("names", [["a.wav"], ["a.wav", "c.wav"]])
def test_json_is_an_object_a_line(capsys, said, names):
    status, output, error = run(capsys, "transcribe", "--model", ".", "--format", "json", *names)
    assert (status, error) == (0, "")
    for name, line in zip(names, output, strict=True):
        found = json.loads(line)
        assert list(found) == ["audio", "text", "words", "seconds", "token_seconds", "score", "alternatives"]
        assert found["audio"] == name
        assert found["text"] == said[name].text
        assert found["words"] == [word._asdict() for word in said[name].words]
        assert found["seconds"] == said[name].seconds
        assert found["token_seconds"] == said[name].token_seconds
        assert found["score"] == pytest.approx(said[name].score)


def test_subtitles_are_of_one_file(capsys, said):
    status, output, _ = run(capsys, "transcribe", "--model", ".", "--format", "srt", "c.wav")
    assert status == 0
    assert "\n".join(output).rstrip() == srt(said["c.wav"].words).rstrip()
    assert output[0] == "1"
    assert run(capsys, "transcribe", "--model", ".", "--format", "vtt", "c.wav")[1][0] == "WEBVTT"
    status, output, error = run(capsys, "transcribe", "--model", ".", "--format", "srt", "a.wav", "b.wav")
    assert (status, output) == (2, [])
    assert "subtitles are of one file, found 2" in error


def test_a_bad_file_among_good_ones_is_named_and_stops_nothing(capsys, said):
    status, output, error = run(capsys, "transcribe", "--model", ".", "a.wav", "text.wav", "gone.wav", "c.wav")
    assert status == 1
    assert output == [f"a.wav\t{said['a.wav']}", f"c.wav\t{said['c.wav']}"]
    faults = error.splitlines()
    assert [fault.split(":")[:2] for fault in faults] == [["sru-asr", " text.wav"], ["sru-asr", " gone.wav"]]


def test_in_json_a_bad_file_has_an_error_instead_of_a_text(capsys):
    status, output, error = run(capsys, "transcribe", "--model", ".", "--format", "json", "text.wav", "a.wav")
    assert status == 1
    bad, good = map(json.loads, output)
    assert list(bad) == ["audio", "error"]
    assert bad["audio"] == "text.wav"
    assert f"sru-asr: {bad['error']}\n" == error
    assert good["audio"] == "a.wav"


@pytest.mark.parametrize("names", [["text.wav"], ["text.wav", "gone.wav"]])
def test_if_no_file_can_be_transcribed_the_status_is_2(capsys, names):
    status, output, error = run(capsys, "transcribe", "--model", ".", *names)
    assert (status, output) == (2, [])
    assert len(error.splitlines()) == len(names)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
def test_a_file_name_that_no_encoding_knows_is_no_reason_to_stop(capsys, tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    soundfile.write(os.fsencode(tmp_path / name), np.zeros(8_000), 16_000)
    status, output, _ = run(capsys, "transcribe", "--model", ".", tmp_path / name, "a.wav")
    assert status == 0
    assert output[0].startswith(f"{tmp_path}/caf\\udce9.wav\t")
    status, output, _ = run(capsys, "transcribe", "--model", ".", "--format", "json", tmp_path / name)
    assert status == 0
    assert json.loads(output[0])["audio"] == str(tmp_path / name)


def test_json_is_of_what_standard_output_can_be_written_in(folder):
    """In ASCII a letter became an escape that JSON does not know."""
    soundfile.write(folder / "größe.wav", np.zeros(8_000), 16_000)
    command = [sys.executable, "-m", "sru_asr.cli", "transcribe", "--model", str(folder), "--format", "json"]
    for encoding in ("ascii", "utf-8"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        found = subprocess.run([*command, str(folder / "größe.wav")], env=environment, capture_output=True, check=True)
        assert json.loads(found.stdout.decode(encoding))["audio"] == str(folder / "größe.wav")
        assert ("größe".encode() in found.stdout) == (encoding == "utf-8")


# What is missing


def test_without_a_model_the_one_of_the_package_is_taken(capsys):
    audio = RECIPES.parent / "data/alphanum/audio/af_sarah-0009.opus"
    status, output, error = run(capsys, "transcribe", audio)
    assert (status, error) == (0, "")
    assert output == [load_model().transcribe(audio).text]
    assert output[0]


@pytest.mark.parametrize("command", [["transcribe", "a.wav"], ["evaluate", "--manifest", "no.jsonl"]])
@pytest.mark.parametrize(
    ("model", "message"),
    [("gone", "no model at gone"), ("a.wav", "a.wav is not a readable safetensors file"), ("/", "no model at /model")],
)
def test_a_model_that_cannot_be_loaded(capsys, command, model, message):
    status, output, error = run(capsys, *command, "--model", model)
    assert (status, output) == (2, [])
    assert error.startswith(f"sru-asr: {message}")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "arguments are required: COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["transcribe", "--model", "."], "arguments are required: AUDIO"),
        (["transcribe", "--mod", ".", "a.wav"], "unrecognized arguments: --mod"),
        (["transcribe", "--model", ".", "--format", "xml", "a.wav"], "invalid choice: 'xml'"),
        (["evaluate", "--model", "."], "arguments are required: --manifest"),
    ],
)
def test_what_the_command_line_lacks(capsys, argv, message):
    status, output, error = run(capsys, *argv)
    assert (status, output) == (2, [])
    assert message in error


# evaluate


ENTRIES = [
    {"audio": "b.wav", "text": "b three", "speaker": "one"},
    {"audio": "a.wav", "text": "", "speaker": "two", "id": "silence"},
    {"audio": "c.wav", "text": "grosse"},
]


def test_evaluate_prints_rates_and_nothing_else(capsys, tmp_path, folder):
    for entry in ENTRIES:
        (tmp_path / entry["audio"]).symlink_to(folder / entry["audio"])
    manifest = write_manifest(tmp_path, *ENTRIES)  # in another folder than this one
    status, output, error = run(capsys, "evaluate", "--model", ".", "--manifest", manifest)
    assert (status, error) == (0, "")
    wer, cer, *_ = output
    assert wer.startswith("WER ")
    assert "3 words in 3 utterances" in wer
    assert cer.startswith("CER ")
    assert "13 characters in 3 utterances" in cer


def test_evaluate_says_what_no_model_of_these_letters_can_get_right(capsys, folder):
    manifest = write_manifest(folder, {"audio": "b.wav", "text": "Größe 5"}, {"audio": "c.wav", "text": "five"})
    status, _, error = run(capsys, "evaluate", "--model", ".", "--manifest", manifest)
    assert (status, len(error.splitlines())) == (0, 1)
    assert "1 of 2 references have what the model cannot write ('5', 'Ö'); numbers are to be spelled out" in error
    manifest = write_manifest(folder, {"audio": "b.wav", "text": "Größe"})
    _, _, error = run(capsys, "evaluate", "--model", ".", "--manifest", manifest)
    assert error.endswith("cannot write ('Ö')\n")


def test_evaluate_writes_everything_as_json(capsys, folder, said, tmp_path):
    manifest = write_manifest(folder, *ENTRIES)
    path = tmp_path / "out.json"
    status, output, _ = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--json", path)
    assert status == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [result["id"] for result in found["results"]] == ["b.wav", "silence", "c.wav"]
    assert [result["reference"] for result in found["results"]] == ["B THREE", "", "GROSSE"]
    assert [result["hypothesis"] for result in found["results"]] == [said[e["audio"]].text for e in ENTRIES]
    assert found["utterances"] == 3
    assert found["wer"] == found["words"]["errors"] / 3
    assert found["cer"] == found["characters"]["errors"] / 13
    assert list(found["speakers"]) == ["one", "two"]
    assert found["faults"] == []
    assert f"{100 * found['wer']:.2f} %" in output[0]


def test_evaluate_through_windows(capsys, folder, tmp_path):
    """As `evaluate` of the library does with the same window, and the JSON says which it was."""
    manifest = write_manifest(folder, *ENTRIES)
    model, (cuts, _) = load_model(folder), read_manifest(manifest)
    found = {}
    for latency, window in ((None, (0, 0)), (80, window_of(80, 25))):
        options = [] if latency is None else ["--latency", latency]
        path = tmp_path / f"{latency}.json"
        status, _, _ = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--json", path, *options)
        assert status == 0
        found[latency] = json.loads(path.read_text())
        assert [found[latency][name] for name in ("latency_ms", "chunk", "lookahead")] == [latency, *window]
        expected = evaluate(model, cuts, chunk=window[0], lookahead=window[1])
        assert [r["hypothesis"] for r in found[latency]["results"]] == [r.hypothesis for r in expected.results]
    assert found[None]["results"] != found[80]["results"]


@pytest.mark.parametrize("latency", ["79", "-1", "nan", "inf"])
def test_a_latency_without_room_is_refused(capsys, folder, latency):
    manifest = write_manifest(folder, *ENTRIES)
    status, output, error = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--latency", latency)
    assert (status, output) == (2, [])
    assert error.startswith("sru-asr: --latency: expected a latency of at least 80 ms, two frames, found")


def test_evaluate_goes_on_without_what_has_faults(capsys, folder, tmp_path):
    faulty = [{"audio": "gone.wav", "text": "x"}, {"text": "x"}, {"audio": "text.wav", "text": "x"}]
    soundfile.write(folder / "short.wav", np.zeros(200), 16_000)
    manifest = write_manifest(folder, faulty[0], *ENTRIES, *faulty[1:], {"audio": "short.wav", "text": "x"})
    path = tmp_path / "out.json"
    status, output, error = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--json", path)
    assert status == 1
    assert "3 words in 3 utterances" in output[0]
    faults = error.splitlines()
    for fault, start in zip(
        faults, [f"{manifest}:1: ", f"{manifest}:5: ", f"{manifest}:6: ", f"{manifest}:7: short.wav: "], strict=True
    ):
        assert fault.startswith(f"sru-asr: {start}")
    found = json.loads(path.read_text())
    assert found["utterances"] == 3
    assert [f"sru-asr: {fault}" for fault in found["faults"]] == faults


def test_alignments_of_all_utterances_or_of_those_with_errors(capsys, folder, said):
    right = {"audio": "a.wav", "text": said["a.wav"].text}
    manifest = write_manifest(folder, ENTRIES[0], right)
    _, none, _ = run(capsys, "evaluate", "--model", ".", "--manifest", manifest)
    _, some, _ = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--alignments", "errors")
    _, every, _ = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--alignments", "all")
    assert some[0] == "b.wav  2 of 2 words wrong"
    assert some[1].split() == ["REF:", "B", "THREE"]
    assert some[2].startswith("HYP: ")
    assert some[-5:] == none
    assert f"a.wav  0 of {len(said['a.wav'].text.split())} words wrong" in every
    assert len(every) > len(some) > len(none) == 5


def test_speakers_are_listed_worst_first(capsys, folder, said):
    right = {"audio": "a.wav", "text": said["a.wav"].text, "speaker": "good"}
    manifest = write_manifest(folder, right, ENTRIES[0], ENTRIES[2])
    status, output, _ = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--speakers")
    assert status == 0
    assert [line.split("  ")[0] for line in output[:3]] == ["one", "(no speaker)", "good"]
    assert output[2].startswith("good  WER 0.00 %  of ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a manifest"),
        ("", "is empty"),
        ('{"audio": "gone.wav", "text": "x"}\n', "no utterance could be evaluated"),
        ("once upon a time\n", "no utterance could be evaluated"),
    ],
)
def test_a_manifest_of_which_nothing_is_left(capsys, tmp_path, content, message):
    path, out = tmp_path / "m.jsonl", tmp_path / "out.json"
    if content is not None:
        path.write_text(content)
    status, output, error = run(capsys, "evaluate", "--model", ".", "--manifest", path, "--json", out)
    assert (status, output) == (2, [])
    assert message in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith(f"sru-asr: {path}: ")
    assert not out.exists()


def test_of_a_text_for_a_manifest_only_the_first_lines_are_shown(capsys, tmp_path):
    """Each of the 140 lines of a README used to get one of its own."""
    path = tmp_path / "README.md"
    path.write_text("once upon a time\n" * 140)
    status, _, error = run(capsys, "evaluate", "--model", ".", "--manifest", path)
    assert status == 2
    assert len(error.splitlines()) == 7
    assert error.splitlines()[5] == "sru-asr: ... and 135 more"


def test_json_that_cannot_be_written_is_refused_before_the_work(capsys, tmp_path):
    for path, message in ((tmp_path / "no" / "a.json", "there is no folder"), (tmp_path, "is a folder")):
        status, output, error = run(capsys, "evaluate", "--model", "gone", "--manifest", "gone", "--json", path)
        assert (status, output) == (2, [])
        assert error.startswith("sru-asr: --json: ")
        assert message in error


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
def test_json_that_turns_out_not_to_be_writable(capsys, folder):
    manifest = write_manifest(folder, *ENTRIES)
    status, output, error = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--json", "/dev/full")
    assert status == 2
    assert len(output) == 5  # the figures are there
    assert error == "sru-asr: --json: /dev/full cannot be written: No space left on device\n"


# info, help


def test_info(capsys):
    status, output, error = run(capsys, "info")
    assert (status, error) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in output)
    assert facts["sru_asr"] == __version__
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["kernels"] in ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
    assert facts["because"]
    status, output, _ = run(capsys, "info", "--format", "json")
    assert status == 0
    assert json.loads("\n".join(output)) == facts | {"threads": int(facts["threads"])}


def test_info_says_why_kernels_cannot_be_used(capsys, monkeypatch):
    from sru_asr import build

    def fail():
        raise build.BuildError("there is no compiler")

    monkeypatch.setattr(build, "library", fail)
    status, output, _ = run(capsys, "info")
    assert status == 2
    assert output[-1].split(maxsplit=1) == ["kernels", "unusable: there is no compiler"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("command", ["transcribe", "evaluate"])
def test_precision(capsys, monkeypatch, folder, tmp_path, command, precision):
    from sru_asr.sru import SRU

    seen, layers = [], SRU._layers

    def spy(sru, *rest):
        output, state = layers(sru, *rest)
        seen.append("int8" if sru.layers[0].quantized else str(output.dtype).removeprefix("torch."))
        return output, state

    monkeypatch.setattr(SRU, "_layers", spy)
    options = ["a.wav"]
    if command == "evaluate":
        options = ["--manifest", write_manifest(folder, {"audio": "a.wav", "text": "A"}), "--json", tmp_path / "a.json"]
    status, _, _ = run(capsys, command, "--model", ".", "--precision", precision, *options)
    assert status == 0
    assert set(seen) == {precision}
    if command == "evaluate":
        assert json.loads((tmp_path / "a.json").read_text())["precision"] == precision


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "gpu"], "--device: expected cpu, cuda or cuda:N, found 'gpu'"),
        (["--device", "mps"], "--device: expected cpu, cuda or cuda:N, found 'mps'"),
        (["--device", "cuda:7"], "--device cuda:7: torch finds 1 NVIDIA GPUs here; leave --device out to use the CPU"),
        (["--device", "cuda", "--precision", "int8"], "--precision int8 is for CPUs; on a GPU take bfloat16"),
    ],
)
def test_devices_that_are_not_there(capsys, monkeypatch, folder, options, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    status, output, error = run(capsys, "transcribe", "--model", ".", *options, "a.wav")
    assert (status, output, error) == (2, [], f"sru-asr: {message}\n")


def test_hotwords_a_lexicon_and_alternatives(capsys, folder, said, tmp_path):
    words = said["c.wav"].text.split()
    (tmp_path / "lexicon").write_text(" ".join(words[:-1]) + " ZZ")
    (tmp_path / "hot").write_text(f"ZZ\t0\n{words[0]}\t3\n")
    status, output, _ = run(capsys, "transcribe", "--model", ".", "--format", "json", "--n-best", 5, "c.wav")
    found = json.loads(output[0])
    assert status == 0
    assert len({one["text"] for one in found["alternatives"]}) == 5
    assert found["alternatives"][0]["text"] == found["text"]
    status, output, _ = run(
        capsys,
        *("transcribe", "--model", ".", "--lexicon", tmp_path / "lexicon", "--hotwords", tmp_path / "hot", "c.wav"),
    )
    assert status == 0
    assert set(output[0].split()) <= {*words, "ZZ"}
    for option, message in (("--hotwords", "cannot be read as text"), ("--lexicon", "cannot be read as text")):
        status, _, error = run(capsys, "transcribe", "--model", ".", option, tmp_path / "none", "c.wav")
        assert (status, message in error) == (2, True)
    status, _, error = run(capsys, "transcribe", "--model", ".", "--n-best", 5, "c.wav")
    assert (status, "--format json" in error) == (2, True)
    status, _, error = run(capsys, "transcribe", "--model", ".", "--beam", 0, "c.wav")
    assert (status, "beam of at least 1" in error) == (2, True)


def test_two_systems_are_compared(capsys, folder, said, tmp_path):
    right = [{"audio": f"{name}.wav", "text": said[f"{name}.wav"].text} for name in "abc"]
    manifest, out = write_manifest(folder, *right), tmp_path / "full.json"
    assert run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--json", out)[0] == 0
    found = json.loads(out.read_text())
    assert found["wer_interval"] == [0.0, 0.0]
    assert found["calibration"]["bins"]
    status, output, _ = run(
        capsys, "evaluate", "--model", ".", "--manifest", manifest, "--latency", 80, "--compare", out
    )
    assert (status, output[-1].startswith(f"against {out}, 3 utterances that both have: +")) == (0, True)
    assert output[-1].count(" to ") == 1  # nobody is named
    endless = '{"results": [{"id": "a", "reference": "", "words": {"hits": 1e400}}]}'
    for content in ("", "[]", '{"results": [{"id": 1}]}', endless):
        (tmp_path / "other.json").write_text(content)
        status, _, error = run(
            capsys, "evaluate", "--model", ".", "--manifest", manifest, "--compare", tmp_path / "other.json"
        )
        assert (status, "is not what evaluate --json writes" in error) == (2, True)


def test_utterances_of_one_name_and_of_speakers_are_compared(capsys, folder, said, tmp_path):
    entries = [
        {"audio": f"{name}.wav", "text": said[f"{name}.wav"].text, "id": "same", "speaker": speaker}
        for name, speaker in zip("abc", "xxy", strict=True)
    ]
    manifest, out = write_manifest(folder, *entries), tmp_path / "full.json"
    hot = tmp_path / "hot"
    hot.write_text("yes\n")
    options = ("--hotwords", hot, "--boost", 2, "--word-bonus", 0.5, "--beam", 4)
    assert run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--json", out, *options)[0] == 0
    found = json.loads(out.read_text())
    assert found["decoding"] == {"beam": 4, "word_bonus": 0.5, "hotwords": str(hot), "boost": 2.0}
    assert (found["model"], found["manifest"]) == (".", str(manifest))
    status, output, _ = run(capsys, "evaluate", "--model", ".", "--manifest", manifest, "--compare", out, *options)
    assert status == 0
    assert "3 utterances that both have: +0.00 points of WER" in output[-1]
    assert "+0.00 to +0.00 by utterance, +0.00 to +0.00 by speaker;" in output[-1]


def test_a_language_model_is_trained_tuned_and_used(capsys, folder, said, tmp_path):
    pytest.importorskip("kenlm")
    pytest.importorskip("kaldingram")
    (tmp_path / "texts.txt").write_text("once upon a time\n{laughter} The end.\n" * 5)
    manifest = write_manifest(folder, *ENTRIES)
    arpa = tmp_path / "lm.arpa"
    status, output, _ = run(capsys, "lm", "train", "--order", 2, tmp_path / "texts.txt", manifest, "--output", arpa)
    assert (status, output[0].startswith(f"{arpa}: 2-grams of ")) == (0, True)
    assert "ONCE UPON" in arpa.read_text()
    (tmp_path / "nemo.json").write_text('\n{"audio_filepath": "a.wav", "text": "guten morgen"}\n')
    status, _, error = run(capsys, "lm", "train", tmp_path / "nemo.json", "--output", tmp_path / "g")
    assert (status, "nemo.json: expected texts, found JSON" in error) == (2, True)
    (folder / "gone.jsonl").write_text('{"audio": "gone.wav", "text": "Nobody heard"}\n{"text": "\\ud83d"}\n{}\n')
    status, output, error = run(capsys, "lm", "train", "--order", 2, folder / "gone.jsonl", "--output", tmp_path / "g")
    assert (status, error.count("gone.jsonl:")) == (0, 2)
    assert "gone.jsonl:3: no field `text`, only: nothing" in error
    assert "NOBODY HEARD" in (tmp_path / "g").read_text()
    manifest.write_text(manifest.read_text() + '{"audio": "gone.wav", "text": "YES"}\n')
    status, output, error = run(
        capsys, *("lm", "tune", "--model", ".", "--lm", arpa, "--manifest", manifest, "--json", tmp_path / "t.json")
    )
    assert (status, output[-1].startswith("best: --lm-weight ")) == (0, True)
    assert "gone.wav" in error
    settings = json.loads((tmp_path / "t.json").read_text())
    errors = [sum(one["words"][name] for name in ("substitutions", "deletions", "insertions")) for one in settings]
    assert errors == sorted(errors)
    assert len(errors) == 42
    status, output, _ = run(capsys, "transcribe", "--model", ".", "--lm", arpa, "--lm-weight", 2, "a.wav")
    assert (status, len(output)) == (0, 1)
    status, _, error = run(capsys, "lm", "tune", "--model", ".", "--manifest", manifest)
    assert (status, "expected --lm FILE" in error) == (2, True)
    status, _, error = run(capsys, "lm", "train", tmp_path / "none", "--output", arpa)
    assert (status, "cannot be read as text" in error) == (2, True)
    for wrong, message in ((tmp_path, "is a folder"), (tmp_path / "none/x.arpa", "there is no folder")):
        status, _, error = run(capsys, "lm", "train", tmp_path / "texts.txt", "--output", wrong)
        assert (status, message in error) == (2, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(capsys, command):
    status, output, _ = run(capsys, command, "--help")
    assert status == 0
    examples = [line.removeprefix("example: sru-asr ") for line in output if line.startswith("example: ")]
    assert examples
    for example in examples:
        args = cli._parser().parse_args(example.split(" > ")[0].split())
        assert args.run.__module__ == f"sru_asr.commands.{command}"


def test_help_needs_no_torch():
    """Every --help, --version and complaint about arguments, in one process."""
    code = f"""
import contextlib, sys
from sru_asr import cli
for argv in [["--help"], ["--version"], [], *([command, "--help"] for command in {COMMANDS}), ["transcribe"]]:
    with contextlib.suppress(SystemExit):
        cli.main(argv)
assert not sys.modules.keys() & {{"torch", "numpy", "lhotse", "rich", "soundfile"}}, "slow"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: sru-asr") == 1 + len(COMMANDS)
    assert f"sru-asr {__version__}\n" in done.stdout


# Scripts of recipes


@pytest.mark.parametrize(
    "command",
    [
        ("prepare.py", "--subset", "mini", "--download-dir", "a.wav/downloads"),
        ("evaluate.py", "--download-dir", "a.wav/downloads"),
        ("train.py", "--output-dir", "a.wav/run"),
    ],
)
def test_recipes_end_with_a_message_where_they_cannot_write(command):
    script = RECIPES / "librispeech" / command[0]
    done = subprocess.run([sys.executable, script, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: [Errno 20] Not a directory: 'a.wav/")
    assert len(done.stderr.splitlines()) == 1


def test_a_script_of_a_recipe_that_is_interrupted_says_so(capsys):
    def work():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        script.run(work)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped; what was prepared is kept, give the same command again\n"


# Early ends


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">/dev/full", "No space left on device"),
        (">&-", "standard output is closed"),
        ("<&-", "standard input, which is closed"),
    ],
)
def test_where_nothing_can_be_read_or_written_there_is_no_traceback(folder, redirection, message):
    source = "-" if "<" in redirection else str(folder / "c.wav")
    command = f"{sys.executable} -m sru_asr.cli stream --model {folder} {source} {redirection}"
    found = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "origin", ["*", "example.org", "https://a.org/b", "https://[::1", "http://a@b.org", "http://a:x"]
)
def test_what_is_no_origin_is_refused(capsys, folder, origin):
    status, _, error = run(capsys, "serve", "--model", ".", "--origin", origin)
    assert (status, "--origin: expected scheme and host" in error) == (2, True)


@pytest.mark.parametrize("given", ["runs/an4", "runs/an4/model.safetensors", "runs/other/../an4/"])
def test_a_served_model_goes_by_its_folder(given):
    assert folder_of(Path(given)) == "an4"


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("https://example.org:443", "https://example.org"),
        ("http://Example.org:80/", "http://example.org"),
        ("https://example.org:80", "https://example.org:80"),
        ("https://münchen.de", "https://xn--mnchen-3ya.de"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_origins_are_as_browsers_name_them(said, named):
    """With a port that browsers leave out an origin was taken, and then refused to all."""
    assert serve._origin(said) == named


def test_words_that_the_model_cannot_write_are_told_of(capsys, folder, tmp_path):
    (tmp_path / "some").write_text("42\nR2D2\nYES\n")
    (tmp_path / "none").write_text("42 23")
    status, output, error = run(capsys, "transcribe", "--model", ".", "--hotwords", tmp_path / "some", "c.wav")
    assert (status, len(output), len(error.splitlines())) == (0, 1, 1)
    assert "--hotwords: 2 of 3 have what the model cannot write ('2', '4'); numbers are to be spelled out" in error
    (tmp_path / "punctuation").write_text("ONE\n???\n")
    status, _, error = run(capsys, "transcribe", "--model", ".", "--hotwords", tmp_path / "punctuation", "c.wav")
    assert (status, "line 2, '???': expected a phrase, found nothing that could be said" in error) == (2, True)
    status, _, error = run(capsys, "transcribe", "--model", ".", "--lexicon", tmp_path / "none", "c.wav")
    assert (status, "--lexicon: 2 of 2 have what the model cannot write" in error) == (2, True)


@pytest.mark.parametrize("options", [("--boost", 3), ("--lm-weight", 0.5), ("--lm-unit", "character")])
def test_options_that_would_do_nothing_are_refused(capsys, options):
    """Whoever forgot --lm believed that the model was used."""
    status, output, error = run(capsys, "transcribe", "--model", ".", *options, "a.wav")
    assert (status, output) == (2, [])
    assert f"{options[0]}: expected --" in error


def test_transcribe_says_what_reads_standard_input(capsys):
    status, _, error = run(capsys, "transcribe", "--model", ".", "-")
    assert (status, "`sru-asr stream -`" in error) == (2, True)


def test_a_file_of_several_keys_is_refused(capsys, tmp_path):
    """No client could name all of it, and the server let nobody in."""
    pytest.importorskip("fastapi")
    (tmp_path / "keys").write_text("one\ntwo\n")
    status, _, error = run(capsys, "serve", "--model", ".", "--api-key-file", tmp_path / "keys")
    assert (status, "expected one key" in error) == (2, True)


def test_addresses_of_this_machine():
    assert all(map(serve._is_loopback, ("127.0.0.1", "127.0.0.2", "::1", "localhost")))
    assert not any(map(serve._is_loopback, ("0.0.0.0", "192.168.1.2", "example.org", "::")))


def test_a_process_that_is_interrupted_keeps_what_it_printed(tmp_path):
    """Lines come as they are recognised, also into a pipe, and Ctrl-C ends the rest without a traceback."""
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(20 * 16_000), 16_000)
    command = [sys.executable, "-m", "sru_asr.cli", "transcribe", "--model", ".", *[str(path)] * 2_000]
    with subprocess.Popen(command, env=BUFFERED, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = os.read(process.stdout.fileno(), 1 << 16)
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate()
    assert (process.returncode, error) == (130, b"")
    lines = (first + rest).splitlines()
    assert lines[0].startswith(os.fsencode(path) + b"\t")
    # A buffer holds 8 KB, which would be all there is at first.
    assert len(first) < 4_096
    assert len(lines) < 2_000


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_standard_error_is_not_needed(folder, redirection):
    """Closed, it cost every transcript."""
    command = f'exec "{sys.executable}" -m sru_asr.cli transcribe --model . a.wav nowhere.wav {redirection}'
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, cwd=folder, check=False)
    assert done.stdout.startswith(b"a.wav\t")
    assert done.returncode == (1 if redirection == "2>&-" else 2)


@pytest.mark.parametrize("command", ["transcribe", "evaluate"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(folder, command):
    """As `| head -1` does, here before the first line."""
    rest = ["a.wav", "b.wav"] if command == "transcribe" else ["--manifest", write_manifest(folder, *ENTRIES)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sru_asr.cli", command, "--model", ".", *rest],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=BUFFERED,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


# stream


def captions(output):
    return [json.loads(line) for line in output]


def test_a_streamed_file_gives_what_its_windows_give_offline(capsys, folder):
    status, output, error = run(capsys, "stream", "--model", ".", "--window", "3", "2", "--pause", "60", "c.wav")
    assert (status, error) == (0, "")
    model, waveform = load_model(folder), read(folder / "c.wav")
    with torch.inference_mode():
        (path,) = greedy(*model(waveform[None], torch.tensor([len(waveform)]), 3, 2))
    assert output == [" ".join(model.tokenizer.decode(path.tokens).split())]
    assert len(output[0]) >= 3


def test_json_has_each_change_with_the_times_of_words(capsys):
    arguments = ("stream", "--model", ".", "--latency", "160", "--pause", "60")
    status, output, _ = run(capsys, *arguments, "--format", "json", "c.wav")
    found = captions(output)
    assert status == 0
    assert [caption["final"] for caption in found] == [False] * (len(found) - 1) + [True]
    assert found[-1]["text"] == " ".join(word["text"] for word in found[-1]["words"])
    assert run(capsys, *arguments, "c.wav")[1] == [found[-1]["text"]]
    times = [time for word in found[-1]["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= 1.5


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_raw_samples_come_in_through_a_pipe(capsys, folder, rate):
    """As fast as they come, and half a sample at the end is named after what came before it."""
    samples, _ = soundfile.read(folder / "c.wav", dtype="int16")
    command = [sys.executable, "-m", "sru_asr.cli", "stream", "--model", str(folder), "--pause", "60", "-"]
    found = subprocess.run(
        [*command, "--rate", str(rate)], input=samples.tobytes() + b"x", capture_output=True, check=False
    )
    assert found.returncode == 1
    assert b"odd number of bytes" in found.stderr
    wav = subprocess.run(
        [*command, "--rate", str(rate)], input=Path("c.wav").read_bytes(), capture_output=True, check=False
    )
    assert (wav.returncode, wav.stdout) == (2, b"")
    assert b"expected raw samples" in wav.stderr
    nothing = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert (nothing.returncode, b"found none" in nothing.stderr) == (2, True)
    if rate == 16_000:
        assert found.stdout.decode().splitlines() == run(capsys, "stream", "--model", ".", "--pause", "60", "c.wav")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latency", "20", "c.wav"], "at least 80 ms, two frames, found 20 ms"),
        (["--window", "0", "2", "c.wav"], "chunk >= 1 and lookahead >= 0"),
        (["--pause", "0", "c.wav"], "times above 0 s"),
        (["--rate", "10", "-"], "a rate of 1000 to 384000 Hz, found 10"),
        (["--rate", "8000", "c.wav"], "--rate is for raw samples"),
        (["--realtime", "-"], "--realtime is for a file"),
        (["--device-name", "1", "c.wav"], "--device-name is for the microphone"),
        (["gone.wav"], "gone.wav"),
        (["text.wav"], "text.wav"),
    ],
)
def test_what_cannot_be_streamed_is_status_two(capsys, arguments, message):
    status, output, error = run(capsys, "stream", "--model", ".", *arguments)
    assert (status, output) == (2, [])
    assert message in error


def test_ctrl_c_in_a_stream_says_what_has_been_said(folder):
    """Of a file that would take a minute, as if it were spoken."""
    command = [sys.executable, "-m", "sru_asr.cli", "stream", "--model", str(folder), "--format", "json"]
    process = subprocess.Popen(
        [*command, "--realtime", "--latency", "80", str(folder / "long.wav")], stdout=subprocess.PIPE, text=True
    )
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert not first["final"]
    assert captions(rest.splitlines())[-1]["final"]
    assert process.returncode == 130
