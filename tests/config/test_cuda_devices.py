"""CUDA_VISIBLE_DEVICES is read as CUDA reads it; torch, which imitates CUDA too, agrees."""

import pytest
import torch

from vae_tune.config.cuda_devices import visible_devices

VALUES = {
    "": (),
    "0": ("0",),
    "2,0": ("2", "0"),
    " 1 , 3": ("1", "3"),
    "+1": ("1",),
    "-1": (),
    "0,-1,1": ("0",),
    "1,1": (),
    "0,x,1": ("0",),
    "NoDevFiles": (),
    "none": (),
    "GPU-8932f937": ("GPU-8932f937",),
    "GPU-8932f937,GPU-5f": ("GPU-8932f937", "GPU-5f"),
    "GPU-8932f937,0": ("GPU-8932f937",),
    "GPU-8932f937,GPU-8932f937": (),
    "MIG-5f-1,MIG-5f-2,MIG-5f-3,MIG-5f-4,MIG-5f-5": ("MIG-5f-1", "MIG-5f-2", "MIG-5f-3", "MIG-5f-4", "MIG-5f-5"),
    "MIG-GPU-8932f937/1/0": ("MIG-GPU-8932f937/1/0",),
    "0,GPU-8932f937": ("0",),
}


@pytest.mark.parametrize("variable", VALUES)
def test_the_devices_that_cuda_uses_are_those_that_torch_finds(variable, monkeypatch):
    found = visible_devices(variable, installed=4)
    assert found == VALUES[variable]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert found == tuple(map(str, torch.cuda._parse_visible_devices()))


def test_a_device_that_is_not_installed_ends_the_list_and_a_missing_variable_shows_all():
    assert visible_devices("0,4,1", installed=4) == ("0",)
    assert visible_devices("7", installed=4) == ()
    assert visible_devices(None, installed=2) == ("0", "1")
    for variable in ("0", "GPU-8932f937", "MIG-5f-1", None):
        assert visible_devices(variable, installed=0) == ()
