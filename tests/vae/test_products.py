"""Matrix products of a step by either library of torch's: nearly the same numbers, and which of them is taken."""

from __future__ import annotations

import pytest
import torch

from vae_tune.config.settings import TrialConfig
from vae_tune.vae import products
from vae_tune.vae.training import fit

CPU = torch.device("cpu")
SMALL = TrialConfig(latent_size=3, hidden_width=8, batch_size=16, max_epochs=3, learning_rate=1e-2)


@pytest.mark.parametrize(
    "config", [{}, {"encoder_activation": "relu", "hidden_layers": 2}, {"precision": "bfloat16"}], ids=str
)
def test_losses_are_those_of_the_other_library_within_the_tolerance_of_float32(tiny, monkeypatch, config):
    losses = []
    for unused in (False, True):
        monkeypatch.setattr(products, "leaves_avx512_unused", lambda unused=unused: unused)
        reports = fit(TrialConfig(**{**vars(SMALL), **config}), tiny, CPU)
        losses.append([(report.train_loss, report.val_loss) for report in reports])
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]))


def test_each_product_is_written_into_the_tensor_that_is_given():
    a, b, bias = torch.rand(3, 4), torch.rand(4, 5), torch.rand(5)
    for mm, addmm in (products.TORCH, products.ONEDNN):
        out = torch.empty(3, 5)
        assert mm(a, b, out) is out
        torch.testing.assert_close(out, a @ b)
        assert addmm(bias, a, b, out) is out
        torch.testing.assert_close(out, a @ b + bias)


@pytest.mark.parametrize(
    ("maker", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "AVX512", False),
    ],
)
def test_onednn_is_taken_where_mkl_does_not_use_the_whole_processor(
    monkeypatch, tmp_path, maker, capability, expected
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {maker}\n" if maker else "processor\t: 0\n")
    monkeypatch.setattr(products, "_CPU_INFO", tmp_path / "cpuinfo")
    found = products.leaves_avx512_unused.__wrapped__()
    assert found is expected
    monkeypatch.setattr(products, "leaves_avx512_unused", lambda: found)
    assert products.products_for(torch.empty(1)) is (products.ONEDNN if expected else products.TORCH)
    assert products.products_for(torch.empty(1, dtype=torch.bfloat16)) is products.TORCH
    assert products.products_for(torch.empty(1, dtype=torch.float64)) is products.TORCH
