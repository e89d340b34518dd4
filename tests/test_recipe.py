"""Training as a user runs it: in a process of its own, killed, resumed, and spread over two processes."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import full_disk
from lhotse import CutSet, MonoCut, SupervisionSegment
from safetensors.torch import load_file

from sru_asr.corpus import Utterance, write_cuts
from sru_asr.initial import given_model, new_model
from sru_asr.model import ModelConfig, Recognizer, load_model
from sru_asr.recipe import _learnable
from sru_asr.settings import DataConfig, _difference, training_parser
from sru_asr.text import CharTokenizer

pytestmark = pytest.mark.slow

SCRIPT = """
import multiprocessing, os, signal
from pathlib import Path
from sru_asr import recipe, script, settings
from sru_asr.task import SpeechTask

def main():
    parser = settings.training_parser(
        "tiny", "test", trainer__max_epochs=2, data__max_batch_seconds=4.0, data__workers=0,
        model__hidden_size=16, model__num_layers=2, model__channels=4, augment__padding_seconds=0.0,
    )
    folder = Path(__file__).parent
    recipe.train(parser, lambda args: {split: [folder / f"{split}.jsonl.gz"] for split in ("train", "dev")})

die_at, steps, step = int(os.environ.get("DIE_AT", -1)), 0, SpeechTask.training_step

def deadly(self, batch, batch_idx):
    global steps
    steps += 1
    assert self.model.training
    if steps == int(os.environ.get("DIVERGE_AT", -1)):
        next(self.parameters()).data.fill_(float("nan"))
    if steps == int(os.environ.get("LOSE_WORKERS_AT", -1)):
        for worker in multiprocessing.active_children():
            worker.kill()  # as the system does where memory ends
    if steps == int(os.environ.get("STOP_AT", -1)):  # once, though a step may not be complete
        self.trainer.should_stop = True  # as --trainer.max_time does
    if steps == die_at and os.environ.get("LOCAL_RANK", "0") in os.environ.get("DIE_RANKS", "0").split():
        os.kill(os.getpid(), getattr(signal, os.environ.get("DIE_BY", "SIGKILL")))
    return step(self, batch, batch_idx)

SpeechTask.training_step = deadly
script.run(main)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty utterances of noise with words to them, and the script that trains on them."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    utterances = []
    for i in range(20):
        audio = folder / f"{i}.wav"
        soundfile.write(audio, rng.standard_normal(16000 + 800 * i) * 0.1, 16000)
        utterances.append(Utterance(f"u{i}", audio, "YES NO"[: 3 + i % 4].strip(), f"s{i % 3}"))
    write_cuts(utterances[:16], folder / "train.jsonl.gz")
    write_cuts(utterances[16:], folder / "dev.jsonl.gz")
    (folder / "train.py").write_text(SCRIPT)
    return folder


def _train(
    corpus: Path, output: Path, *options: str, launcher: tuple[str, ...] = (), timeout: float | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, str(corpus / "train.py"), "--output-dir", str(output), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    environment.pop("PYTEST_CURRENT_TEST", None)
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, cwd=corpus, timeout=timeout
    )


def _weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    result = _train(corpus, output)
    assert result.returncode == 0, result.stderr
    assert "WER" in result.stdout
    assert str(output / "model.safetensors") in result.stdout
    return output


# Batches of an epoch: see test_run_has_the_batches_the_tests_count_on.
BATCHES = 8


def test_run_has_the_batches_the_tests_count_on(whole: Path) -> None:
    checkpoint = torch.load(whole / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2 * BATCHES
    assert any((whole / "tensorboard").iterdir())


def test_an_epoch_that_is_not_measured_shows_no_wer(corpus: Path, tmp_path: Path) -> None:
    """It used to show that of the last one that was."""
    result = _train(corpus, tmp_path, "--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2")
    lines = [line for line in result.stdout.splitlines() if line.startswith("epoch ")]
    assert ["dev WER" in line for line in lines] == [False, True, False], result.stdout + result.stderr


def test_bfloat16_trains_close_to_float32(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """Lightning refused: it takes a fused optimizer for one that scales losses."""
    result = _train(corpus, tmp_path, "--trainer.precision", "bf16-mixed")
    assert result.returncode == 0, result.stderr
    expected, found = _weights(whole), _weights(tmp_path)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.nn.functional.cosine_similarity(found[name].flatten(), tensor.flatten(), dim=0) > 0.99, name


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("die_at", [5, BATCHES + 1, BATCHES + 4], ids=["first epoch", "between", "second epoch"])
def test_killed_run_goes_on_bit_exactly(corpus: Path, whole: Path, tmp_path: Path, die_at: int, workers: str) -> None:
    """With workers one that went on between epochs left the next one out."""
    options = ("--checkpoint-steps", "3", "--data.workers", workers)
    killed = _train(corpus, tmp_path, *options, DIE_AT=str(die_at))
    assert killed.returncode == -signal.SIGKILL
    resumed = _train(corpus, tmp_path, *options)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout
    expected, found = _weights(whole), _weights(tmp_path)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("stop_at", [3, BATCHES], ids=["within", "at its last batch"])
def test_a_run_that_is_stopped_amid_an_epoch_goes_on_bit_exactly(
    corpus: Path, whole: Path, tmp_path: Path, stop_at: int, workers: str
) -> None:
    """The rest of the epoch used to be left out."""
    options = ("--data.workers", workers)
    stopped = _train(corpus, tmp_path, *options, STOP_AT=str(stop_at))
    assert "stopped before its end; the same command goes on" in stopped.stdout, stopped.stderr
    assert load_model(tmp_path).training_data["settings"]["stopped_after"] == round(stop_at / BATCHES, 2)
    resumed = _train(corpus, tmp_path, *options)
    assert "going on from" in resumed.stdout
    expected, found = _weights(whole), _weights(tmp_path)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert load_model(tmp_path).training_data == load_model(whole).training_data | {"recipe": tmp_path.name}


def test_a_run_of_shortened_epochs_goes_on_bit_exactly(corpus: Path, tmp_path: Path) -> None:
    """A process that reads took the rest of the first epoch for the second."""
    options = ("--trainer.limit_train_batches", "2", "--data.workers", "1")
    assert _train(corpus, tmp_path / "whole", *options).returncode == 0
    killed = _train(corpus, tmp_path / "killed", *options, DIE_AT="3")
    assert killed.returncode == -signal.SIGKILL
    resumed = _train(corpus, tmp_path / "killed", *options)
    assert "going on from" in resumed.stdout, resumed.stderr
    expected, found = (_weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_that_is_stopped_within_a_step_completes_it_first(corpus: Path, tmp_path: Path) -> None:
    """It used to save nothing, and to say that it would go on."""
    options = ("--trainer.accumulate_grad_batches", "2")
    assert _train(corpus, tmp_path / "whole", *options).returncode == 0
    stopped = _train(corpus, tmp_path / "stopped", *options, STOP_AT="3")
    assert "stopped before its end; the same command goes on" in stopped.stdout, stopped.stderr
    assert torch.load(tmp_path / "stopped/last.ckpt", weights_only=True)["position"]["batches"] == 4
    assert _train(corpus, tmp_path / "stopped", *options).returncode == 0
    expected, found = (_weights(tmp_path / name) for name in ("whole", "stopped"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # Each of them used to train on the data of the first.
        (["--trainer.devices", "2", "--trainer.strategy", "ddp_fork"], "that start by themselves (ddp), found"),
        (["--checkpoint-steps", "-1"], "these options of --trainer or --checkpoint-steps do not work here"),
        (["--trainer.precision", "bf16-true"], "--trainer.precision: expected one of 32, 32-true, bf16-mixed"),
        # Tracebacks, or a model that was never trained.
        (["--trainer.max_epochs", "0"], "--trainer.max_epochs: expected a number above 0, found 0"),
        (["--trainer.check_val_every_n_epoch", "0"], "--trainer.check_val_every_n_epoch: expected a number above 0"),
        (["--trainer.limit_train_batches", "0.001"], "--checkpoint-steps do not work here: You requested to check"),
    ],
)
def test_trainer_options_that_do_not_work_are_an_error_with_their_name(
    corpus: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    refused = _train(corpus, tmp_path, "--trainer.accelerator", "cpu", *options)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert message in refused.stderr.splitlines()[-1]


def test_killed_twice_while_batches_are_accumulated_goes_on_bit_exactly(corpus: Path, tmp_path: Path) -> None:
    """A run that has just been resumed used to save in the middle of a step, and lose half of its gradient."""
    options = ("--trainer.accumulate_grad_batches", "2", "--checkpoint-steps", "2")
    assert _train(corpus, tmp_path / "whole", *options).returncode == 0
    for die_at in (6, 2):
        assert _train(corpus, tmp_path / "killed", *options, DIE_AT=str(die_at)).returncode == -signal.SIGKILL
    assert _train(corpus, tmp_path / "killed", *options).returncode == 0
    found, expected = (_weights(tmp_path / name) for name in ("killed", "whole"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_other_batches_or_data_are_refused_in_the_same_folder(corpus: Path, tmp_path: Path) -> None:
    assert _train(corpus, tmp_path / "run", "--checkpoint-steps", "2", DIE_AT="6").returncode == -signal.SIGKILL
    result = _train(corpus, tmp_path / "run", "--trainer.accumulate_grad_batches", "2")
    assert result.returncode == 1
    assert "batches to a step: 1 there, 2 now" in result.stderr
    other = tmp_path / corpus.name  # the same names and settings, other words
    shutil.copytree(corpus, other)
    with gzip.open(other / "train.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rows[3]["supervisions"][0]["text"] = "NO"
    with gzip.open(other / "train.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    result = _train(other, tmp_path / "run")
    assert result.returncode == 1
    assert "utterances (train): " in result.stderr
    assert "--restart" in result.stderr
    (tmp_path / "run/settings.json").write_text("")
    result = _train(corpus, tmp_path / "run")
    assert result.returncode == 1
    assert "settings.json is damaged" in result.stderr


def test_a_run_that_diverges_says_so_and_keeps_its_last_checkpoint(corpus: Path, tmp_path: Path) -> None:
    result = _train(corpus, tmp_path, "--checkpoint-steps", "2", DIVERGE_AT="6")
    assert result.returncode == 1
    assert "diverged" in result.stderr
    assert not (tmp_path / "model.safetensors").exists()
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["position"]["batches"] == 4
    assert all(torch.isfinite(weight).all() for weight in kept["state_dict"].values())


def test_restart_starts_again_under_torchrun_too(corpus: Path, tmp_path: Path) -> None:
    assert _train(corpus, tmp_path / "run", "--checkpoint-steps", "2", DIE_AT="6").returncode == -signal.SIGKILL
    launched = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    result = _train(corpus, tmp_path / "run", "--restart", **launched)
    assert result.returncode == 0, result.stderr
    assert "going on" not in result.stdout
    again = _train(corpus, tmp_path / "run", "--restart", TORCHELASTIC_RESTART_COUNT="1", **launched)
    assert "going on" in again.stdout


def test_restart_discards_nothing_where_it_cannot_start(corpus: Path, tmp_path: Path) -> None:
    """The checkpoint used to go first, whatever was wrong with the rest."""
    assert _train(corpus, tmp_path, "--checkpoint-steps", "2", DIE_AT="6").returncode == -signal.SIGKILL
    before = {name: (tmp_path / name).read_bytes() for name in ("last.ckpt", "settings.json")}
    for wrong in (
        ["--checkpoint-steps", "-1"],
        ["--data.vocab_size", "5000"],
        ["--trainer.precision", "bf16-true"],
        ["--trainer.val_check_interval", "100000"],  # which Lightning sees when it begins
    ):
        assert _train(corpus, tmp_path, "--restart", "--seed", "1", *wrong).returncode == 1
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    assert "going on from" in _train(corpus, tmp_path).stdout


def test_ctrl_c_stops_and_the_same_command_goes_on(corpus: Path, whole: Path, tmp_path: Path) -> None:
    stopped = _train(corpus, tmp_path, DIE_AT=str(BATCHES + 3), DIE_BY="SIGINT")
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    resumed = _train(corpus, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for name, tensor in _weights(whole).items():
        assert torch.equal(tensor, _weights(tmp_path)[name]), name


def test_what_a_killed_run_left_half_written_goes(corpus: Path, tmp_path: Path) -> None:
    left = tmp_path / ".part-123-last.ckpt"
    left.write_bytes(b"half")
    assert _train(corpus, tmp_path).returncode == 0
    assert not left.exists()


def test_who_restarts_is_told_how_it_goes_on(corpus: Path, tmp_path: Path) -> None:
    """The same command would discard what it had said to go on from."""
    stopped = _train(corpus, tmp_path, "--restart", DIE_AT=str(BATCHES + 3), DIE_BY="SIGTERM")
    assert f"stopped; the same command without --restart goes on from {tmp_path / 'last.ckpt'}" in stopped.stdout
    assert "going on from" in _train(corpus, tmp_path).stdout


def test_a_reading_process_that_is_killed_ends_in_a_line(corpus: Path, whole: Path, tmp_path: Path) -> None:
    options = ("--data.workers", "1", "--checkpoint-steps", "2")
    stopped = _train(corpus, tmp_path, *options, LOSE_WORKERS_AT=str(BATCHES + 2))
    assert stopped.returncode == 1, stopped.stderr
    assert "a process that loads audio has ended" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "the same command goes on from" in stopped.stdout
    resumed = _train(corpus, tmp_path, *options)
    assert resumed.returncode == 0, resumed.stderr
    for name, tensor in _weights(whole).items():
        assert torch.equal(tensor, _weights(tmp_path)[name]), name


def test_who_does_not_read_on_loses_nothing(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """A closed pipe ended the training as if all were well, before the epoch that it had just shown was kept."""
    command = [sys.executable, str(corpus / "train.py"), "--output-dir", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, cwd=corpus, stdout=subprocess.PIPE) as process:
        process.stdout.close()
    assert process.returncode == 0
    for name, tensor in _weights(whole).items():
        assert torch.equal(tensor, _weights(tmp_path)[name]), name


def test_a_full_disk_is_not_the_end(corpus: Path, tmp_path: Path) -> None:
    with full_disk(1 << 16):  # the process inherits it; its checkpoints are larger
        stopped = _train(corpus, tmp_path)
    assert stopped.returncode == 1
    assert re.search(r"^error: .*File too large: '.*last.ckpt'$", stopped.stderr, re.MULTILINE), stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "stopped; the same command starts again" in stopped.stdout
    assert _train(corpus, tmp_path).returncode == 0


def test_sigterm_stops_and_the_same_command_goes_on(corpus: Path, whole: Path, tmp_path: Path) -> None:
    stopped = _train(corpus, tmp_path, DIE_AT=str(BATCHES + 3), DIE_BY="SIGTERM")
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "stopped; the same command goes on from" in stopped.stdout
    resumed = _train(corpus, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for name, tensor in _weights(whole).items():
        assert torch.equal(tensor, _weights(tmp_path)[name]), name


@pytest.mark.parametrize("ranks", ["0", "0 1"])
def test_sigterm_stops_two_processes(corpus: Path, tmp_path: Path, ranks: str) -> None:
    """They used to wait for each other for ever."""
    options = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    stopped = _train(corpus, tmp_path, *options, DIE_AT="7", DIE_BY="SIGTERM", DIE_RANKS=ranks, timeout=100)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "stopped; the same command goes on from" in stopped.stdout
    resumed = _train(corpus, tmp_path, *options)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout


def test_a_second_training_in_the_same_folder_is_refused(corpus: Path, tmp_path: Path) -> None:
    """It used to write over the checkpoints of the first."""
    command = [sys.executable, str(corpus / "train.py"), "--output-dir", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIE_AT": "2", "DIE_BY": "SIGSTOP"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, cwd=corpus) as first:
        first.stdout.readline()  # it has begun, and halts in its second step
        try:
            second = _train(corpus, tmp_path, "--restart")
        finally:
            first.kill()
    assert second.returncode == 1
    assert f"another training writes to {tmp_path}" in second.stderr
    assert "Traceback" not in second.stderr


def test_finished_run_is_measured_again_without_training(corpus: Path, whole: Path) -> None:
    before = _weights(whole)
    again = _train(corpus, whole)
    assert again.returncode == 0, again.stderr
    assert "WER" in again.stdout
    for name, tensor in _weights(whole).items():
        assert torch.equal(tensor, before[name]), name


def test_the_average_is_kept_and_not_the_last_weights(whole: Path) -> None:
    checkpoint = torch.load(whole / "last.ckpt", weights_only=True)
    last = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    average = checkpoint["callbacks"]["WeightAverage"]["average"]
    names = [name for name, _ in load_model(whole).named_parameters()]
    found = _weights(whole)
    for name, tensor in zip(names, average, strict=True):
        assert torch.equal(found[name], tensor), name
    assert any(not torch.equal(found[name], last[name]) for name in names)
    assert torch.equal(found["features.mean"], last["features.mean"])


def test_other_settings_are_refused_in_the_same_folder(corpus: Path, whole: Path) -> None:
    result = _train(corpus, whole, "--model.hidden_size", "8")
    assert result.returncode == 1
    assert "hidden_size" in result.stderr
    assert "--restart" in result.stderr
    assert "Traceback" not in result.stderr
    result = _train(corpus, whole, "--init-from", "alphanum-en")
    assert "init_from: None there, alphanum-en now" in result.stderr  # and not all that it was trained by, 29 kB
    assert len(result.stderr) < 4_000


def test_what_differs_is_said_in_few_words() -> None:
    before = {"name": "alphanum-en", "settings": {"init_from": {"name": "first", "settings": {}}}}
    assert _difference(None, before) == "None there, alphanum-en now"
    assert _difference(before, {**before, "settings": {}}) == "alphanum-en there, another alphanum-en now"
    assert len(_difference("a b " * 1_000, 3)) < 300


def test_fine_tuning_starts_from_the_given_weights(corpus: Path, whole: Path, tmp_path: Path) -> None:
    options = ("--init-from", str(whole), "--trainer.max_epochs", "1", "--optimizer.learning_rate", "1e-12")
    result = _train(corpus, tmp_path, *options)
    assert result.returncode == 0, result.stderr
    for name, tensor in _weights(whole).items():
        torch.testing.assert_close(_weights(tmp_path)[name], tensor, rtol=0, atol=1e-6)
    before = load_model(whole).training_data["settings"]
    assert load_model(tmp_path).training_data["settings"]["init_from"] == {"name": whole.name, "settings": before}


def test_fine_tuning_for_other_words_keeps_the_encoder_alone(corpus: Path, whole: Path, tmp_path: Path) -> None:
    options = ("--trainer.max_epochs", "1", "--optimizer.learning_rate", "1e-12", "--data.vocab_size", "9")
    result = _train(corpus, tmp_path, "--init-from", str(whole), "--new-tokenizer", *options)
    assert result.returncode == 0, result.stderr
    given, found = _weights(whole), _weights(tmp_path)
    assert load_model(tmp_path).tokenizer.vocab_size == 9
    for name, tensor in given.items():
        if name.startswith("ctc."):
            assert found[name].shape[0] == 9
        else:
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_with_another_tokenizer_an_encoder_is_as_late_as_before() -> None:
    """Its word times used to begin with no delay, so late."""
    given = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=1), CharTokenizer())
    given.delay = 3
    cut = MonoCut("a", 0.0, 1.0, 0, supervisions=[SupervisionSegment("a", "a", 0.0, 1.0, text="OTHER WORDS")])
    assert new_model(given.config, DataConfig(), CutSet.from_cuts([cut]), given).delay == 3


def test_a_delay_is_learned_from_the_given_model_and_remembered(corpus: Path, whole: Path, tmp_path: Path) -> None:
    options = ("--loss.delay", "2", "--trainer.max_epochs", "1", "--loss.consistency", "0.1")
    result = _train(corpus, tmp_path, "--init-from", str(whole), *options)
    assert result.returncode == 0, result.stderr
    assert (load_model(whole).delay, load_model(tmp_path).delay) == (0, 2)
    held = _train(corpus, tmp_path / "held", "--init-from", str(tmp_path), *options, "--loss.delay", "0")
    free = _train(corpus, tmp_path / "free", "--init-from", str(tmp_path), *options[2:])
    assert held.returncode == free.returncode == 0, held.stderr + free.stderr
    assert load_model(tmp_path / "held").delay == 2
    assert any(
        not torch.equal(one, _weights(tmp_path / "free")[name]) for name, one in _weights(tmp_path / "held").items()
    )
    too_late = _train(corpus, tmp_path / "new", "--init-from", str(tmp_path / "held"), "--loss.delay", "99")
    assert too_late.returncode == 1
    assert "is 2 frames late, expected at most 100 together" in too_late.stderr
    for refused in ((), ("--init-from", str(whole), "--new-tokenizer")):
        result = _train(corpus, tmp_path / "new", *options, *refused)
        assert result.returncode == 1
        assert "--loss.delay 2 is by how much tokens come later than from the model of --init-from" in result.stderr


def test_a_new_tokenizer_without_a_model_is_refused(corpus: Path, tmp_path: Path) -> None:
    result = _train(corpus, tmp_path, "--new-tokenizer")
    assert result.returncode == 1
    assert "--new-tokenizer is for --init-from" in result.stderr


def test_other_manifests_are_trained_on_too_but_for_the_development_set(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other/more.jsonl.gz"
    write_cuts([Utterance("more", corpus / "0.wav", "MORE", "s")], other)
    result = _train(corpus, tmp_path / "run", "--also", str(other), "--trainer.max_epochs", "1")
    assert result.returncode == 0, result.stderr
    assert "on 17 utterances" in result.stdout
    training = load_model(tmp_path / "run").training_data
    assert training["manifests"]["train"][1:] == ["other/more.jsonl.gz"]
    assert training["settings"]["data_sets"]["train"][1:] == ["other/more.jsonl.gz"]
    result = _train(corpus, tmp_path / "dev", "--also", str(corpus / "dev.jsonl.gz"))
    assert result.returncode == 1
    assert "expected no id in both training and development set, found 4 (" in result.stderr
    assert "/16.wav" in result.stderr
    write_cuts([Utterance("other", corpus / "17.wav", "MORE", "s")], other)
    result = _train(corpus, tmp_path / "same", "--also", str(other))
    assert result.returncode == 1
    assert "expected no audio in both training and development set, found 1 (" in result.stderr
    result = _train(corpus, tmp_path / "gone", "--also", "gone.jsonl.gz")
    assert result.returncode == 1
    assert "--also: there is no manifest gone.jsonl.gz" in result.stderr


def test_what_can_be_learned_as_it_was_recorded_is_not_left_out(capsys: pytest.CaptureFixture) -> None:
    """Though at the fastest of all speeds and tempos it could not: fast speakers used to be missing."""
    model = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=1), CharTokenizer())
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # to 25 frames a second
    cuts = [
        MonoCut(text, 0.0, 1.0, 0, supervisions=[SupervisionSegment(text, text, 0.0, 1.0, text=text)])
        for text in (letters[:25], letters)
    ]
    assert [cut.id for cut in _learnable(CutSet.from_cuts(cuts), model)] == [letters[:25]]
    for text, seconds in (("ONE", 0.11), ("SIX", 0.10), (letters + "ABC", 1.16)):  # to a frame that is not whole
        cut = MonoCut(text, 0.0, seconds, 0, supervisions=[SupervisionSegment(text, text, 0.0, seconds, text=text)])
        assert list(_learnable(CutSet.from_cuts([cut]), model)) == [cut]
    assert "left out 1 of 2" in capsys.readouterr().out
    with pytest.raises(ValueError, match="are the texts right"):
        _learnable(CutSet.from_cuts(cuts[1:]), model)


def test_features_are_measured_on_what_can_be_learned(corpus: Path, tmp_path: Path) -> None:
    """One sample, which there may be, stopped the training where nothing longer was beside it."""
    soundfile.write(tmp_path / "short.wav", np.zeros(1), 16_000)
    write_cuts([Utterance("short", tmp_path / "short.wav", "YES", "s")], tmp_path / "short.jsonl.gz")
    options = ("--also", str(tmp_path / "short.jsonl.gz"), "--data.min_seconds", "0", "--data.max_batch_seconds", "0.5")
    result = _train(corpus, tmp_path / "my run", *options, "--trainer.max_epochs", "1")
    assert result.returncode == 0, result.stderr
    assert "left out 1 of 17 utterances" in result.stdout
    assert f"sru-asr transcribe --model '{tmp_path}/my run' AUDIO..." in result.stdout


def test_fine_tuning_takes_the_given_architecture_and_refuses_another(tmp_path: Path) -> None:
    """Whatever a recipe's own defaults are; what was asked for besides used to be recorded and ignored."""
    config = ModelConfig(channels=4, hidden_size=16, num_layers=2)
    Recognizer(config, CharTokenizer()).save(tmp_path / "model.safetensors")
    parser = training_parser("tiny", None, model__num_layers=3, data__vocab_size=120)
    options = ["--init-from", str(tmp_path), "--model.hidden_size", "16"]
    args = parser.parse_args(options)
    assert given_model(args, parser.parse_args(options, defaults=False)).training
    assert args.model.as_dict() == asdict(config)
    assert args.data.vocab_size == 0
    options += ["--model.channels", "8", "--model.num_layers", "3", "--data.vocab_size", "50"]  # 3 is the default
    with pytest.raises(ValueError, match="brings architecture and tokenizer of its own: leave out") as found:
        given_model(parser.parse_args(options), parser.parse_args(options, defaults=False))
    assert set(str(found.value).split("leave out ")[1].split(", ")) == {
        "--model.channels 8 (it has 4)",
        "--model.num_layers 3 (it has 2)",
        "--data.vocab_size 50 (it has 0)",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"speeds": ()}, r"speeds must be factors .* found \[\]"),
        ({"speeds": (1.0, 0.0)}, r"speeds must be factors .* found \[1.0, 0.0\]"),
        ({"max_batch_seconds": -5}, "max_batch_seconds must be above 0, found -5"),
        ({"min_seconds": 50}, "below max_seconds, found 50 and 40.0"),
        ({"vocab_size": -1}, "vocab_size must be .* found -1"),
    ],
)
def test_data_settings_that_mean_nothing(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**wrong)


def test_help_is_for_readers_not_for_sphinx() -> None:
    description = "Trains.\n\nexample: one\nexample: two\n"
    shown = training_parser("tiny", description).format_help()
    assert not re.search(":[a-z]+:`|``", shown)
    assert description in shown


def test_a_mistake_is_answered_in_a_few_lines(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        training_parser("tiny", None).parse_args(["--seeds", "3"])
    answer = capsys.readouterr().err
    assert "--seeds" in answer
    assert answer.count("\n") < 5


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_equal_one(corpus: Path, tmp_path: Path, launcher: str) -> None:
    # Two ranks see two batches a step; so does one process that accumulates two.
    one = _train(corpus, tmp_path / "one", "--trainer.accumulate_grad_batches", "2")
    assert one.returncode == 0, one.stderr
    run = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    )
    options = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    two = _train(corpus, tmp_path / "two", *options, launcher=run if launcher == "torchrun" else ())
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("\nCER ") == 1
    expected, found = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("die_at", [4, 6])
def test_a_run_goes_on_with_more_processes(corpus: Path, tmp_path: Path, die_at: int) -> None:
    """Batches were counted as if there were as many as before: some were left out, and the epoch was not measured."""
    options = ("--checkpoint-steps", "1")
    one = ("--trainer.accumulate_grad_batches", "2")
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    assert _train(corpus, tmp_path / "whole", *one, *options).returncode == 0
    assert _train(corpus, tmp_path / "run", *one, *options, DIE_AT=str(die_at)).returncode == -signal.SIGKILL
    # The number of accumulated batches is none of the settings that are compared: the two together are one.
    result = _train(corpus, tmp_path / "run", *two, *options)
    assert result.returncode == 0, result.stderr
    assert "going on from" in result.stdout
    assert result.stdout.count("epoch ") >= 3, result.stdout
    assert torch.load(tmp_path / "run/last.ckpt", weights_only=True)["global_step"] == BATCHES
    expected, found = _weights(tmp_path / "whole"), _weights(tmp_path / "run")
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_own_recordings_from_a_plain_manifest(corpus: Path, tmp_path: Path) -> None:
    """The recipe for any recordings, and what it says where there are none."""
    lines = [json.dumps({"audio": str(corpus / f"{i}.wav"), "text": "Yeß NÖ"[: 3 + i % 4].strip()}) for i in range(20)]
    for name, part in (("train", lines[:16]), ("dev", lines[16:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part))
    script = Path(__file__).parents[1] / "recipes/own/train.py"
    options = [
        "--model.hidden_size",
        "8",
        "--model.num_layers",
        "1",
        "--model.channels",
        "4",
        "--trainer.max_epochs",
        "1",
    ]

    def train(**manifests: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), "--output-dir", str(tmp_path / "out"), *options]
        for name, manifest in manifests.items():
            command += [f"--{name}", str(tmp_path / manifest)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    result = train(train="absent.jsonl", dev="dev.jsonl")
    assert result.returncode == 1
    assert "absent.jsonl: cannot be read as a manifest" in result.stderr
    assert "Traceback" not in result.stderr
    result = train(train="train.jsonl", dev="dev.jsonl")
    assert result.returncode == 0, result.stderr
    model = load_model(tmp_path / "out")
    assert model.training_data["manifests"]["train"]
    assert model.tokenizer.pieces[-2:] == ("Z", "Ö")
