"""Checkpoints: what is saved comes back to the bit, and whatever else a file may be is an error that says so."""

import contextlib
import io
import json
import os
import pickle
import resource
import stat
import struct
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sru_asr.features import LOG_FLOOR
from sru_asr.model import CHECKPOINT_NAME, CheckpointError, ModelConfig, Recognizer, load_model
from sru_asr.text import CharTokenizer, SentencePieceTokenizer

CONFIG = ModelConfig(n_mels=20, channels=4, hidden_size=16, num_layers=2, dropout=0.2)
TEXTS = ["HELLO WORLD", "THE QUICK BROWN FOX", "IT'S JUMPING OVER", "A LAZY DOG", "HELLO FOX"]


def make_model(tokenizer=None):
    torch.manual_seed(0)
    model = Recognizer(CONFIG, tokenizer or CharTokenizer())
    model.features.mean.uniform_(-8, -4)
    model.features.scale.uniform_(0.2, 0.5)
    return model.eval()


def log_probs_of(model):
    waveform = 0.1 * torch.randn(2, 8_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(waveform, torch.tensor([8_000, 5_000]))[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bytes of a good one."""
    path = tmp_path_factory.mktemp("model") / CHECKPOINT_NAME
    make_model().save(path)
    return path.read_bytes()


def parts_of(checkpoint):
    """The header, with the description decoded, and the tensors' bytes."""
    size = struct.unpack("<Q", checkpoint[:8])[0]
    header = json.loads(checkpoint[8 : 8 + size])
    description = json.loads(header["__metadata__"]["sru_asr"])
    return header, description, checkpoint[8 + size :]


def joined(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def described(checkpoint, description):
    """The checkpoint with another description, an object or the text itself."""
    header, _, body = parts_of(checkpoint)
    text = description if isinstance(description, str) else json.dumps(description)
    return joined(header | {"__metadata__": {"sru_asr": text}}, body)


def refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value)
    return str(error.value)


# Saving


@pytest.mark.parametrize("kind", ["char", "sentencepiece"])
def test_what_is_saved_comes_back_to_the_bit(tmp_path, kind):
    model = make_model(CharTokenizer("ABC' ") if kind == "char" else SentencePieceTokenizer.train(TEXTS, 50))
    model.delay = 3
    model.training_data = {"recipe": "größer", "dev": {"wer": 0.25, "counts": [1, 2, 3]}}
    model.save(tmp_path / "runs" / "one" / CHECKPOINT_NAME)  # makes the folders
    loaded = load_model(tmp_path / "runs" / "one")
    assert torch.equal(log_probs_of(loaded), log_probs_of(model))
    assert loaded.config == model.config == CONFIG
    assert loaded.delay == 3
    assert loaded.training_data == model.training_data
    assert loaded.tokenizer.to_dict() == model.tokenizer.to_dict()
    ids = list(range(model.tokenizer.vocab_size))
    assert loaded.tokenizer.decode(ids) == model.tokenizer.decode(ids)
    assert not loaded.training
    for (name, found), expected in zip(loaded.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name
        assert found.dtype == expected.dtype


def test_a_model_is_loaded_from_its_file_or_folder_by_string_or_path(tmp_path, checkpoint):
    (tmp_path / CHECKPOINT_NAME).write_bytes(checkpoint)
    expected = log_probs_of(make_model())
    for path in (tmp_path, str(tmp_path), tmp_path / CHECKPOINT_NAME, str(tmp_path / CHECKPOINT_NAME)):
        assert torch.equal(log_probs_of(load_model(path)), expected)


def test_a_model_saved_in_bfloat16_is_loaded_in_float32(tmp_path):
    model = make_model().bfloat16()
    model.save(tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.ctc.linear.weight, model.ctc.linear.weight.float())


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float16])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, checkpoint, dtype):
    """It used to take the place of what was there."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoint)
    model = make_model()
    model.get_parameter(NAME).data[0, 0] = 1e5  # more than half precision has
    with pytest.raises(ValueError, match=r"expected (a dtype|finite weights)"):
        model.save(path, dtype)
    assert path.read_bytes() == checkpoint
    assert list(tmp_path.iterdir()) == [path]


def test_a_loaded_model_can_be_saved_over_its_own_file(tmp_path, checkpoint):
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(checkpoint)
    load_model(path).save(path)
    assert torch.equal(log_probs_of(load_model(path)), log_probs_of(make_model()))


def test_a_checkpoint_may_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        make_model().save(tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640


@pytest.mark.parametrize("fault", ["disk", "rename", "description"])
def test_a_failure_to_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, checkpoint, fault):
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(checkpoint)
    model = make_model()
    if fault == "description":
        model.training_data = {"what": object()}
    else:
        write = Path.write_bytes

        def fail(self, content):
            if isinstance(content, bytes):
                write(self, content[: len(content) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, {"disk": "write_bytes", "rename": "replace"}[fault], fail)
    with pytest.raises((OSError, TypeError), match=r"No space left|not JSON serializable"):
        model.save(path)
    assert path.read_bytes() == checkpoint
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_NAME]


# What is no checkpoint


def test_what_is_not_there(tmp_path):
    for path in (tmp_path / "nothing.safetensors", tmp_path / "no" / "folder", tmp_path):
        with pytest.raises(CheckpointError, match=r"no model at .*: expected a model\.safetensors"):
            load_model(path)


def test_what_is_cut_short(tmp_path, checkpoint):
    size = 8 + struct.unpack("<Q", checkpoint[:8])[0]
    for n in {*range(9), *range(8, size, 200), size - 1, *range(size, len(checkpoint), 3_001), len(checkpoint) - 1}:
        refused(tmp_path / "a.safetensors", checkpoint[:n], "damaged or of another kind")
    refused(tmp_path / "a.safetensors", checkpoint + b"\0", "damaged or of another kind")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes(tmp_path_factory, content):
    refused(tmp_path_factory.getbasetemp() / "random.safetensors", content, "damaged or of another kind")


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_header_is_refused_or_harmless(tmp_path_factory, checkpoint, data):
    """One to three bytes of the header changed: what does not end in a CheckpointError is a model that works."""
    content = bytearray(checkpoint)
    size = 8 + struct.unpack("<Q", checkpoint[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert log_probs_of(load_model(path)).isfinite().all()


class Exploit:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch, old"])
@pytest.mark.parametrize("name", ["model.safetensors", "last.ckpt", "model.pt"])
def test_a_pickle_is_refused_and_not_run(tmp_path, kind, name):
    trace, path = tmp_path / "trace", tmp_path / name
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Exploit(str(trace))}))
        unpickled = pickle.loads(path.read_bytes())
    else:
        torch.save({"state_dict": Exploit(str(trace))}, path, _use_new_zipfile_serialization=kind == "torch")
        unpickled = torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    unpickled["state_dict"].close()
    assert trace.exists()  # so it would have
    trace.unlink()
    refused(path, path.read_bytes(), "damaged or of another kind")
    assert not trace.exists()


def test_someone_elses_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    for metadata in (None, {}, {"format": "pt"}):
        save_file({"lstm.weight": torch.zeros(3, 3)}, path, metadata=metadata)
        refused(path, path.read_bytes(), "not a checkpoint of sru_asr: its header has no 'sru_asr' entry")


# What says it is a checkpoint and is none


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": 1}, "has format 1, this version reads 2 and 3: a higher one .* a lower one an older version"),
        ({"format": 4}, "has format 4, this version reads 2 and 3: a higher one needs a newer version"),
        ({"format": True}, "has format True"),
        ({"format": "1"}, "has format '1'"),
        ({"format": None}, "has format None"),
        ({"format": [1]}, r"has format \[1\]"),
        ({"config": None}, "architecture should have the entries channels, dropout"),
        ({"config": "big"}, "architecture should have the entries"),
        ({"config": 5}, "architecture should have the entries"),
        ({"config": list(asdict(CONFIG))}, "architecture should have the entries"),
        ({"config": {}}, "architecture should have the entries"),
        ({"config": asdict(CONFIG) | {"eval": "1"}}, "architecture should have the entries"),
        (
            {"config": asdict(CONFIG) | {"hidden_size": 16.0}},
            "hidden_size must be an integer from 1 to 16384, found 16.0",
        ),
        ({"config": asdict(CONFIG) | {"hidden_size": True}}, "hidden_size must be an integer"),
        ({"config": asdict(CONFIG) | {"num_layers": 0}}, "num_layers must be an integer from 1"),
        ({"config": asdict(CONFIG) | {"num_layers": 10**30}}, "num_layers must be an integer from 1"),
        ({"config": asdict(CONFIG) | {"n_mels": "80"}}, "n_mels must be an integer"),
        ({"config": asdict(CONFIG) | {"dropout": None}}, "dropout must be a number from 0.0 to 0.99, found None"),
        ({"config": asdict(CONFIG) | {"dropout": 1.0}}, "dropout must be a number"),
        ({"config": asdict(CONFIG) | {"dropout": float("nan")}}, "dropout must be a number"),
        *(({"delay": delay}, "delay should be a number of frames") for delay in (-1, 101, 1.5, "2", None, True)),
        ({"tokenizer": None}, "expected a tokenizer as"),
        ({"tokenizer": "char"}, "expected a tokenizer as"),
        ({"tokenizer": {"type": "pickle", "model": "gASV"}}, "expected a tokenizer as"),
        ({"tokenizer": {"type": "char", "symbols": [1, 2]}}, "expected symbols of one character"),
        ({"tokenizer": {"type": "char", "symbols": ["A", "A"]}}, "expected every symbol once"),
        ({"tokenizer": {"type": "sentencepiece", "model": "?"}}, "expected a model in base64"),
        ({"tokenizer": {"type": "sentencepiece", "model": "AAAA"}}, "expected a sentencepiece model"),
        (
            {"tokenizer": {"type": "char", "symbols": ["A", "B"]}},
            r"architecture and vocabulary.*expected \(3,\) for ctc.linear.bias, found \(29,\)",
        ),
        ({"config": asdict(CONFIG) | {"num_layers": 3}}, r"for encoder.sru.layers.2.bias, found nothing"),
        ({"config": asdict(CONFIG) | {"num_layers": 1}}, r"expected nothing for encoder.sru.layers.1.bias"),
        ({"config": asdict(CONFIG) | {"n_mels": 40}}, "architecture and vocabulary"),
    ],
)
def test_a_description_that_is_wrong(tmp_path, checkpoint, entries, message):
    _, description, _ = parts_of(checkpoint)
    refused(tmp_path / "a.safetensors", described(checkpoint, description | entries), message)


def test_a_checkpoint_from_before_the_floor_was_in_it_keeps_its_features(tmp_path, checkpoint):
    _, description, _ = parts_of(checkpoint)
    assert description["config"].pop("floor") == LOG_FLOOR
    (tmp_path / "a.safetensors").write_bytes(described(checkpoint, description | {"format": 2}))
    model = load_model(tmp_path / "a.safetensors")
    assert model.config.floor == 1e-6
    with torch.inference_mode():
        torch.testing.assert_close(
            model.features.log_mel(torch.zeros(1, 400)), torch.full((1, 2, CONFIG.n_mels), 1e-6).log()
        )
    model.save(tmp_path / "b.safetensors")
    assert load_model(tmp_path / "b.safetensors").config == model.config


@pytest.mark.parametrize("name", ["format", "config", "tokenizer"])
def test_a_description_that_lacks_something(tmp_path, checkpoint, name):
    _, description, _ = parts_of(checkpoint)
    del description[name]
    refused(tmp_path / "a.safetensors", described(checkpoint, description), f"not a checkpoint.*it lacks '{name}'")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"text"', "[" * 100_000, '{"a":' * 100_000, '{"format": ' + "1" * 5_000 + "}"],
    ids=lambda text: text[:10],
)
def test_a_description_that_is_no_json_object(tmp_path, checkpoint, text):
    refused(tmp_path / "a.safetensors", described(checkpoint, text), "not a checkpoint of sru_asr")


def test_a_description_without_training_data_or_with_another_kind_of_it_is_none(tmp_path, checkpoint):
    _, description, _ = parts_of(checkpoint)
    for training in (None, [1], "text"):
        (tmp_path / "a.safetensors").write_bytes(described(checkpoint, description | {"training": training}))
        assert load_model(tmp_path / "a.safetensors").training_data == {}


def test_a_lie_about_the_architecture_costs_no_memory(tmp_path, checkpoint):
    _, description, _ = parts_of(checkpoint)
    path = tmp_path / "a.safetensors"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # First one of 1.6 GB, should this ever fail.
    for lie in ({"hidden_size": 4096}, {"hidden_size": 16384, "channels": 4096, "num_layers": 256}):
        content = described(checkpoint, description | {"config": asdict(CONFIG) | lie})
        refused(path, content, "weights do not fit the architecture")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # KB


def with_tensors(path, checkpoint, change):
    """The checkpoint with its dict of tensors changed."""
    path.write_bytes(checkpoint)
    header, _, _ = parts_of(checkpoint)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=header["__metadata__"])
    return path.read_bytes()


NAME = "encoder.subsampling.project.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NAME), rf"for {NAME}, found nothing"),
        (lambda t: t.pop("features.mean"), "for features.mean, found nothing"),
        (lambda t: t.clear(), "found nothing"),
        (lambda t: t.update(extra=torch.zeros(2)), r"expected nothing for extra, found \(2,\)"),
        (lambda t: t.update({"features.mel.fb": torch.zeros(257, 20)}), "expected nothing for features.mel"),
        (lambda t: t.update({NAME: t[NAME].T.contiguous()}), rf"for {NAME}, found \(24, 32\)"),
        (lambda t: t.update({NAME: t[NAME].flatten()}), rf"for {NAME}, found \(768,\)"),
        (lambda t: t.update({NAME: t[NAME][None]}), rf"for {NAME}, found \(1, 32, 24\)"),
        (lambda t: t.update({NAME: t[NAME].int()}), f"finite numbers for {NAME}, found torch.int32"),
        (lambda t: t.update({NAME: t[NAME] > 0}), f"finite numbers for {NAME}, found torch.bool"),
        (lambda t: t.update({NAME: t[NAME].to(torch.complex64)}), f"finite numbers for {NAME}, found torch.complex64"),
        (lambda t: t.update({NAME: t[NAME].to(torch.float8_e4m3fn)}), f"finite numbers for {NAME}, found torch.float8"),
        (lambda t: t[NAME][3, 5].fill_(float("nan")), f"finite numbers for {NAME}"),
        (lambda t: t["features.scale"][0].fill_(float("inf")), "finite numbers for features.scale"),
        (lambda t: t.update({NAME: t[NAME].double() + 1e300}), f"finite numbers for {NAME}"),
    ],
)
def test_tensors_that_are_wrong(tmp_path, checkpoint, change, message):
    path = tmp_path / "a.safetensors"
    refused(path, with_tensors(path, checkpoint, change), message)


def test_numbers_a_packed_dtype_would_hide(tmp_path, checkpoint):
    """There is no arithmetic for torch's four-bit numbers, two to a byte; it must not come to that."""
    header, _, _ = parts_of(checkpoint)
    at = 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = (torch.Size(entry["shape"]).numel() + 1) // 2
            header[name] = {"dtype": "F4", "shape": [2 * size], "data_offsets": [at, at + size]}
            at += size
    refused(tmp_path / "a.safetensors", joined(header, bytes(at)), "weights do not fit")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_mels": 3}, "n_mels must be an integer from 4 to 512, found 3"),
        ({"channels": 0}, "channels must be"),
        ({"hidden_size": 20_000}, "hidden_size must be"),
        ({"num_layers": 1.0}, "num_layers must be"),
        ({"dropout": -0.1}, "dropout must be a number from 0.0 to 0.99"),
        ({"dropout": "0.1"}, "dropout must be a number"),
        ({"floor": 0.0}, "floor must be a power from 1e-30 to 1.0, found 0.0"),
        ({"floor": float("nan")}, "floor must be"),
        ({"floor": 1}, "floor must be"),
    ],
)
def test_an_architecture_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**values)


def test_frames_per_second_are_those_of_log_probs():
    model = make_model()
    with torch.inference_mode():
        log_probs, lengths = model(torch.zeros(1, 160_000), torch.tensor([160_000]))
    assert model.frames_per_second == 25
    assert lengths.tolist() == [log_probs.shape[1]]
    assert abs(log_probs.shape[1] - 10 * model.frames_per_second) <= 1


def test_no_utterances_have_no_frames():
    model = Recognizer(ModelConfig(channels=4, hidden_size=8, num_layers=1), CharTokenizer()).eval()
    log_probs, lengths = model(torch.zeros(0, 16_000), torch.zeros(0, dtype=torch.long))
    assert log_probs.shape == (0, 25, model.tokenizer.vocab_size)
    assert lengths.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_in_other_numbers_says_how_to_compute_in_them(dtype):
    model = Recognizer(ModelConfig(channels=4, hidden_size=8, num_layers=1), CharTokenizer()).to(dtype)
    with pytest.raises(ValueError, match=r'arithmetic\(model, "bfloat16"\)'):
        model(torch.zeros(1, 16_000), torch.tensor([16_000]))


def test_lengths_beyond_the_audio_are_refused_in_samples():
    model = Recognizer(ModelConfig(channels=4, hidden_size=8, num_layers=1), CharTokenizer()).eval()
    with pytest.raises(ValueError, match=r"from 0 to the 16000 samples, found \[16000, 16001\]"):
        model(torch.zeros(2, 16_000), torch.tensor([16_000, 16_001]))
