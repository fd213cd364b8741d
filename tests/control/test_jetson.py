"""Boards as their kernels show them: `sysfs/` holds what is read of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vdag.control.resources import find_gpus
from vdag.control.resources.gpu import GpuState
from vdag.control.resources.jetson import JetsonGpu
from vdag.control.resources.nvml import NvmlGpus

SYSFS = Path(__file__).with_name("sysfs")

BOARDS = {
    "nano-jetpack4": GpuState(0, 0.5, 34, None, 922, 1.237, 38.5),
    "xavier-nx-jetpack5": GpuState(0, 0.5, 0, None, 204, 4960 * 128 / 1e6, 35.5),
    "agx-orin-jetpack6": GpuState(0, 0.5, 100, None, 1300, 19192 * 1432 / 1e6, 48.968),
}


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_is_read_from_its_recorded_sysfs(board: str):
    assert JetsonGpu(SYSFS / board, lambda: 0.5).read() == (BOARDS[board],)


@pytest.mark.parametrize(
    ("board", "watts"),
    [
        ("nano-jetpack4", {"POM_5V_CPU": 0.966, "POM_5V_GPU": 1.237, "POM_5V_IN": 4.812}),
        (
            "xavier-nx-jetpack5",
            {"VDD_CPU_GPU_CV": 0.63488, "VDD_IN": 4.04736, "VDD_SOC": 1.15072},
        ),
    ],
)
def test_every_rail_is_measured_and_the_sum_of_them_is_no_rail(board: str, watts: dict[str, float]):
    rails = JetsonGpu(SYSFS / board).rails
    assert {rail.label: rail.power_w() for rail in rails} == pytest.approx(watts)


def test_rails_are_found_through_the_links_that_a_real_driver_has(tmp_path: Path):
    shutil.copytree(SYSFS / "agx-orin-jetpack6", tmp_path / "sys")
    driver = tmp_path / "sys/bus/i2c/drivers/ina3221"
    (tmp_path / "sys/devices/i2c-1").mkdir(parents=True)
    (driver / "1-0040").rename(tmp_path / "sys/devices/i2c-1/1-0040")
    (driver / "1-0040").symlink_to(tmp_path / "sys/devices/i2c-1/1-0040")
    (driver / "bind").touch()
    state = JetsonGpu(tmp_path / "sys", lambda: 0.5).read()
    assert state == (BOARDS["agx-orin-jetpack6"],)


def test_the_load_of_a_kernel_without_the_alias_is_found_beside_its_clock(tmp_path: Path):
    device = tmp_path / "class/devfreq/17000000.ga10b/device"
    device.mkdir(parents=True)
    (device / "load").write_text("250\n")
    (device.parent / "cur_freq").write_text("306000000\n")
    state = JetsonGpu(tmp_path, lambda: 0.25).read()
    assert state == (GpuState(0, 0.25, 25, None, 306),)


@pytest.mark.parametrize("text", ["", "N/A\n", "\udc80"])
def test_what_a_sleeping_gpu_does_not_tell_is_none(tmp_path: Path, text: str):
    shutil.copytree(SYSFS / "nano-jetpack4", tmp_path / "sys")
    broken = [
        "devices/gpu.0/load",
        "class/devfreq/57000000.gpu/cur_freq",
        "class/thermal/thermal_zone2/temp",
        "bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power1_input",
    ]
    for name in broken:
        (tmp_path / "sys" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert JetsonGpu(tmp_path / "sys", lambda: 0.5).read() == (GpuState(0, 0.5),)


def test_memory_is_that_of_the_board():
    (state,) = JetsonGpu(SYSFS / "nano-jetpack4").read()
    assert state.mem_ratio is not None
    assert 0 < state.mem_ratio < 1


def test_any_other_machine_is_left_to_nvml(tmp_path: Path):
    assert JetsonGpu(tmp_path).read() == ()
    assert isinstance(find_gpus(tmp_path), NvmlGpus)
    assert isinstance(find_gpus(SYSFS / "nano-jetpack4"), JetsonGpu)
