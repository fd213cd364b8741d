from __future__ import annotations

import ctypes

import gpu_kit
import pytest


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """`pictures.cu`, compiled for the CPU."""
    return gpu_kit.compile_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def host(kernels: ctypes.CDLL) -> gpu_kit.HostDevice:
    return gpu_kit.HostDevice(kernels)
