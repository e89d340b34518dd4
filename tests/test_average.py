"""The moving average of weights, against one computed by hand in float64."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from sru_asr.average import WeightAverage

STEPS = 30


class Line(pl.LightningModule):
    """Three weights that learn to fit noise; remembers them after every step, and what validation saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.history: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (batch @ self.weight).square().mean()

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        self.history.append(self.weight.detach().clone())

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.weight.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(average: WeightAverage, folder: Path, **options: int) -> Line:
    torch.manual_seed(0)
    data = torch.utils.data.DataLoader(torch.randn(STEPS, 3), batch_size=1)
    module = Line()
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[average],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **options,
    )
    trainer.fit(module, data, torch.utils.data.DataLoader(torch.zeros(1, 3)))
    module.history.append(module.weight.detach().clone())
    return module


def expected(history: list[torch.Tensor], decay: float) -> torch.Tensor:
    """`history` begins with the weights before the first step."""
    average = history[0].double()
    for step, weights in enumerate(history[1:], 1):
        keep = min(decay, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * weights.double()
    return average


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("decay", "accumulate"), [(0.998, 1), (0.5, 1), (0.9, 3)])
def test_it_is_what_it_says(tmp_path: Path, decay: float, accumulate: int) -> None:
    average = WeightAverage(decay)
    module = fit(average, tmp_path, accumulate_grad_batches=accumulate)
    assert average.steps == STEPS // accumulate == len(module.history) - 1
    want = expected(module.history, decay).float()
    torch.testing.assert_close(module.validated[-1], want, rtol=1e-5, atol=1e-6)
    last = module.weight.detach().clone()
    assert torch.equal(last, module.history[-1])  # validation gave the weights back
    average.write_to(module)
    torch.testing.assert_close(module.weight.detach(), want, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(last, want, atol=1e-3)
    # Where training started has no say.
    shifted = [module.history[0] + 1, *module.history[1:]]
    torch.testing.assert_close(expected(shifted, decay).float(), want, rtol=0, atol=1e-2)


def test_it_goes_on_from_what_was_saved() -> None:
    module, average = Line(), WeightAverage(0.9)
    average.load_state_dict({"steps": 7, "average": [torch.tensor([1.0, 2.0, 3.0])]})
    average.on_fit_start(pl.Trainer(logger=False, accelerator="cpu"), module)
    average.write_to(module)
    assert module.weight.tolist() == [1, 2, 3]
    assert average.state_dict()["steps"] == 7
