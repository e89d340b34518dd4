"""What a training step computes, against torch; the windows it draws."""

import random
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sru_asr.data import Batch
from sru_asr.model import ModelConfig, Recognizer
from sru_asr.task import LossConfig, OptimizerConfig, SpeechTask, _delayed, _divergence
from sru_asr.text import CharTokenizer
from sru_asr.warp import Warp

LENGTHS = [16_000, 30_000, 24_000]


def make_batch(texts=("YES", "STOP HERE", "GO")):
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.tensor(CharTokenizer().encode(text), dtype=torch.int64) for text in texts]
    waveforms = 0.1 * torch.randn(len(texts), max(LENGTHS), generator=generator)
    for waveform, length in zip(waveforms, LENGTHS, strict=True):
        waveform[length:] = 0
    return Batch(
        waveforms=waveforms,
        lengths=torch.tensor(LENGTHS),
        targets=torch.nn.utils.rnn.pad_sequence(tokens, True, 0),
        target_lengths=torch.tensor([len(t) for t in tokens]),
        texts=list(texts),
        ids=["a", "b", "c"],
        speakers=["", "", ""],
    )


def make_task(dropout=0.0, masks=False, **loss):
    torch.manual_seed(0)
    model = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=2, dropout=dropout), CharTokenizer())
    model.features.mean.fill_(-5.0)
    model.features.scale.fill_(0.5)
    task = SpeechTask(model, loss=LossConfig(**loss), warp=Warp(1.0, 1.0))
    if not masks:
        task.spec_augment = torch.nn.Module()
        task.spec_augment.forward = lambda features, lengths: features
    return task


def step(task, batch, seed=0):
    torch.manual_seed(seed)
    task._random = random.Random(seed)
    with pytest.warns(UserWarning, match="trainer"):  # there is none to log to
        return task.training_step(batch, 0)


def ctc(task, batch, chunk=0, lookahead=0):
    log_probs, lengths = task.model(batch.waveforms, batch.lengths, chunk, lookahead)
    return F.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths, reduction="none", zero_infinity=True
    )


def test_with_one_view_the_loss_is_ctc_per_token():
    task, batch = make_task(consistency=0.0, windowed=0.0), make_batch()
    expected = (ctc(task, batch) / batch.target_lengths).mean()
    assert_close(step(task, batch), expected, rtol=1e-5, atol=1e-5)


def test_windows_are_what_the_encoder_gets():
    task, batch = make_task(consistency=0.0, windowed=1.0, lookahead=(8, 8)), make_batch()
    chunk, lookahead = task.loss.draw_window(random.Random(0))
    assert chunk != lookahead == 8
    expected = (ctc(task, batch, chunk, lookahead) / batch.target_lengths).mean()
    assert_close(step(task, batch), expected, rtol=1e-5, atol=1e-5)


def test_two_views_are_averaged_and_drawn_together():
    options = {"windowed": 1.0, "lookahead": (2, 2)}
    task, batch = make_task(consistency=0.3, **options), make_batch()
    window = task.loss.draw_window(random.Random(0))
    losses = (ctc(task, batch) + ctc(task, batch, *window)) / 2
    (first, lengths), (second, _) = (task.model(batch.waveforms, batch.lengths, *w) for w in ((0, 0), window))
    divergence = []
    for a, b, length in zip(first, second, lengths.tolist(), strict=True):
        a, b = a[:length], b[:length]
        both = F.kl_div(a, b, log_target=True, reduction="sum") + F.kl_div(b, a, log_target=True, reduction="sum")
        divergence.append(both / 2)
    expected = ((losses + 0.3 * torch.stack(divergence)) / batch.target_lengths).mean()
    found = step(task, batch)
    assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.stack(divergence).detach().min() > 0


def test_views_have_masks_and_dropped_units_of_their_own():
    """Else two views of full context are one, and there is nothing to learn from their divergence."""
    for options in ({"masks": True}, {"dropout": 0.5}):
        task = make_task(windowed=0.0, consistency=1.0, **options).train()
        batch = make_batch()
        with_it = step(task, batch)
        task.loss = LossConfig(windowed=0.0, consistency=1e-9)
        assert step(task, batch) < with_it - 1e-4


def test_each_view_learns_from_the_other_and_moves_it_not():
    """The gradient of half of KL(teacher || softmax(x)) with the teacher fixed: half of softmax(x) - teacher."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 5, 7, generator=generator, requires_grad=True) for _ in range(2)]
    first, second = (row.log_softmax(-1) for row in logits)
    _divergence(first, second, torch.tensor([5, 3])).sum().backward()
    inside = (torch.arange(5) < torch.tensor([[5], [3]]))[:, :, None]
    expected = 0.5 * (first.exp() - second.exp()).detach() * inside
    assert_close(logits[0].grad, expected, rtol=1e-5, atol=1e-6)
    assert_close(logits[1].grad, -expected, rtol=1e-5, atol=1e-6)


def test_what_is_delayed_begins_with_the_first_frame_and_is_no_example_where_its_end_is_lost():
    log_probs = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    log_probs[:, :, 0] = 5.0
    log_probs[0, 5, 2] = log_probs[1, 4, 2] = log_probs[1, 7, 2] = 9.0  # the last of them lies behind the second's end
    late, fits = _delayed(log_probs, torch.tensor([8, 6]), 2)
    assert_close(late[:, 2:], log_probs[:, :6])
    assert_close(late[:, :2], log_probs[:, :1].expand(2, 2, 5))
    assert fits.tolist() == [True, False]
    assert _delayed(log_probs, torch.tensor([8, 6]), 3)[1].tolist() == [False, False]


@pytest.mark.parametrize("delay", [0, 3])
def test_a_teacher_is_followed_some_frames_later_and_neither_trained_nor_saved(delay):
    torch.manual_seed(1)
    teacher = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=1), CharTokenizer()).eval()
    with torch.no_grad():
        teacher.ctc.linear.bias[0] = 5.0  # blanks: the utterances' ends are not lost
    task, batch = make_task(consistency=0.0, windowed=0.0, delay=delay), make_batch()
    task._teacher = (teacher,)
    task._delay_weight = lambda: 0.7
    features = task.model.features(batch.waveforms, batch.lengths)  # training keeps those of the model it starts from
    says, lengths = (out.detach() for out in teacher.log_probs(*features))
    apart = [
        sum(F.kl_div(own[t], said[max(t - delay, 0)], log_target=True, reduction="sum") for t in range(length))
        for own, said, length in zip(task.model(batch.waveforms, batch.lengths)[0], says, lengths.tolist(), strict=True)
    ]
    expected = ((ctc(task, batch) + 0.7 * torch.stack(apart)) / batch.target_lengths).mean()
    loss = step(task, batch)
    assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not [name for name in task.state_dict() if "teacher" in name]


def test_the_delay_is_learned_in_the_first_steps():
    task = make_task(delay=3, delayed=0.25)
    assert task._delay_weight() == 0
    task._teacher = (task.model,)
    task._trainer = SimpleNamespace(global_step=0, estimated_stepping_batches=400)
    weights = []
    for number in (0, 50, 99, 100, 399):
        task._trainer.global_step = number
        weights.append(task._delay_weight())
    assert weights[:3] == [1.0, 0.5, pytest.approx(0.01)]
    assert max(weights[3:]) <= 0


def test_utterances_without_words_are_learned_from():
    task, batch = make_task(consistency=0.2, windowed=0.0), make_batch(("", "STOP HERE", ""))
    loss = step(task, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())
    # Of a second without words, the frames' blanks count as one token.
    task, batch = make_task(consistency=0.0, windowed=0.0), make_batch(("", "", ""))
    expected = (ctc(task, batch) / (batch.lengths // 160 / 100)).mean()
    assert_close(step(task, batch), expected, rtol=1e-5, atol=1e-5)


def test_windows_are_drawn_within_their_limits():
    config = LossConfig(windowed=0.6, lookahead=(2, 12))
    generator = random.Random(0)
    drawn = [config.draw_window(generator) for _ in range(5_000)]
    windows = [window for window in drawn if window != (0, 0)]
    assert len(windows) == pytest.approx(3_000, abs=150)
    assert {lookahead for _, lookahead in windows} == set(range(2, 13))
    for chunk, lookahead in windows:
        assert chunk >= 1
        assert 0.75 * lookahead - 0.5 <= chunk <= 1.5 * lookahead + 0.5
    # Short ones, which are harder, are drawn as often as long ones: half of them lie below the geometric mean.
    assert sum(lookahead < 5 for _, lookahead in windows) == pytest.approx(1_350, abs=150)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": -1.0}, "consistency must be from 0"),
        ({"windowed": 1.1}, "windowed from 0 to 1"),
        ({"lookahead": (0, 4)}, "lookahead must be two numbers of frames from 1"),
        ({"lookahead": (8, 4)}, "lookahead"),
        ({"delay": -1}, "delay must be from 0"),
        ({"delay": 3, "delayed": 0.0}, "delayed above 0"),
    ],
)
def test_losses_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**options)


def test_an_average_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="average must be from 0 to below 1"):
        OptimizerConfig(average=1.0)


def test_what_is_trained_on_is_warped():
    task, batch = make_task(windowed=0.0).train(), make_batch()
    as_it_is = step(task, batch)
    task.warp = Warp(2.0, 1.0).train()
    assert step(task, batch) != as_it_is
    task.warp.eval()
    assert_close(step(task, batch), as_it_is)


def optimizer_of(task, steps):
    task.trainer = SimpleNamespace(precision="32-true", estimated_stepping_batches=steps, global_step=0)
    return task.configure_optimizers()


def test_matrices_of_the_encoder_are_muons_and_every_parameter_is_learned_once():
    task = make_task()
    groups = optimizer_of(task, 100)["optimizer"].param_groups
    learned = [parameter for group in groups for parameter in group["params"]]
    assert {id(p) for p in learned} == {id(p) for p in task.parameters()}
    assert len(learned) == len(list(task.parameters()))
    rows = {id(p): group["block_rows"] for group in groups for p in group["params"]}
    encoder = task.model.encoder
    assert rows[id(encoder.subsampling.project.weight)] == 32  # whole: both directions see it
    assert [rows.pop(id(layer.weight)) for layer in encoder.sru.layers] == [16, 16]  # each gate and direction by itself
    del rows[id(encoder.subsampling.project.weight)]
    assert not any(rows.values())


def test_weights_decay_and_biases_norms_and_vectors_do_not():
    task = make_task()
    decayed = {
        id(p)
        for group in optimizer_of(task, 100)["optimizer"].param_groups
        if group["weight_decay"]
        for p in group["params"]
    }
    names = {name for name, parameter in task.model.named_parameters() if id(parameter) not in decayed}
    assert {"ctc.linear.weight", "encoder.sru.layers.0.weight", "encoder.subsampling.project.weight"}.isdisjoint(names)
    assert {"ctc.linear.bias", "encoder.sru.layers.0.weight_c", "encoder.sru.layers.0.bias"} <= names


def test_the_loss_of_a_validation_is_per_token():
    task, logged = make_task(), {}
    batch, other = make_batch(), make_batch(("OH", "A", "STOP"))
    task.log = lambda name, value, **_: logged.update({name: value})
    task.trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums))
    task.eval()
    task.on_validation_epoch_start()
    with torch.no_grad():
        for one in (batch, other):
            task.validation_step(one, 0)
        task.on_validation_epoch_end()
        expected = torch.cat([ctc(task, one) / one.target_lengths for one in (batch, other)]).mean()
    assert logged["val_loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("warmup", [0.05, 0.2, 0.5])
def test_the_learning_rate_rises_and_falls_however_few_steps_there_are(warmup):
    """With a warm-up of exactly one step torch divided by zero."""
    for steps in range(1, 60):
        task = make_task()
        task.optimizer = OptimizerConfig(warmup=warmup)
        made = optimizer_of(task, steps)
        rates = []
        for _ in range(steps):
            rates.append(made["optimizer"].param_groups[0]["lr"])
            made["optimizer"].step()
            made["lr_scheduler"]["scheduler"].step()
        assert rates[0] == pytest.approx(2e-3 / 25)
        if steps > 2:
            assert 1e-3 < max(rates) <= 2e-3
            assert rates[-1] < 1e-6
