"""Calls of the CUDA driver and of NVRTC by cuda-python: those that pycuda has not.

Each is called with a context current. The results of cuda-python are tuples that begin with a
status.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from vdag.engines.gpu.pictures import source
from vdag.errors import EngineError, EngineUnavailable

__all__ = ["CudaGraph", "capture", "compile_pictures", "mapped", "register", "unregister"]

PORTABLE, DEVICEMAP, READ_ONLY = 1, 2, 8  # CU_MEMHOSTREGISTER_*
#: Only what this thread does may disturb a capture.
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


def register(address: int, nbytes: int) -> None:
    """Lock pages of this process.

    Pages that this process may only read need a flag of their own, which old drivers do not know.

    Raises:
        EngineError: the driver does not do it.
    """
    driver = _driver()
    flags = PORTABLE | DEVICEMAP
    status = driver.cuMemHostRegister(address, nbytes, flags)[0]
    if status != driver.CUresult.CUDA_SUCCESS:
        status = driver.cuMemHostRegister(address, nbytes, flags | READ_ONLY)[0]
    _check(driver, f"registration of {nbytes} bytes", status)


def unregister(address: int) -> None:
    """Undo `register`.

    Raises:
        EngineError: nothing is registered there.
    """
    driver = _driver()
    _check(driver, "unregistration", driver.cuMemHostUnregister(address)[0])


def mapped(address: int) -> int:
    """Return the device's address of page-locked host memory.

    Raises:
        EngineError: it is not page-locked, or the device cannot reach it.
    """
    driver = _driver()
    status, pointer = driver.cuMemHostGetDevicePointer(address, 0)
    _check(driver, "device address of host memory", status)
    return int(pointer)


class CudaGraph:
    """Work recorded once."""

    def __init__(self, driver: Any, graph: Any) -> None:
        self._driver = driver
        self._graph = graph
        status, self._executable = driver.cuGraphInstantiate(graph, 0)
        if status != driver.CUresult.CUDA_SUCCESS:
            driver.cuGraphDestroy(graph)
        _check(driver, "instantiation of a graph", status)

    def launch(self, stream: Any) -> None:
        """Give the work to a stream.

        Raises:
            EngineError: the driver refuses.
        """
        status = self._driver.cuGraphLaunch(self._executable, stream.handle)[0]
        _check(self._driver, "launch of a graph", status)

    def close(self) -> None:
        """Free it; may be called again."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self._driver.cuGraphExecDestroy(executable)
            self._driver.cuGraphDestroy(self._graph)


def capture(stream: int, work: Callable[[], None]) -> CudaGraph:
    """Record what `work` gives to `stream`, a `CUstream`.

    Raises:
        EngineError: something in it cannot be recorded.
    """
    driver = _driver()
    mode = driver.CUstreamCaptureMode(THREAD_LOCAL)
    _check(driver, "begin of a capture", driver.cuStreamBeginCapture(stream, mode)[0])
    try:
        work()
    except BaseException:
        driver.cuStreamEndCapture(stream)
        raise
    status, graph = driver.cuStreamEndCapture(stream)
    _check(driver, "end of a capture", status)
    return CudaGraph(driver, graph)


def compile_pictures(major: int, minor: int) -> bytes:
    """Compile the kernels for a device, by NVRTC or else by nvcc.

    Returns:
        A cubin; PTX where NVRTC is older than the device, which the driver then compiles.

    Raises:
        EngineUnavailable: neither compiler is there.
        EngineError: it does not compile.
    """
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        supported = nvrtc.nvrtcGetSupportedArchs()[1]
    except (ImportError, RuntimeError, OSError) as err:
        return _compile_by_nvcc(major, minor, err)
    wanted = 10 * major + minor
    if wanted in supported:
        return _compile(nvrtc, f"sm_{wanted}", "CUBIN")
    older = max((arch for arch in supported if arch <= wanted), default=min(supported))
    return _compile(nvrtc, f"compute_{older}", "PTX")


def _compile(nvrtc: Any, arch: str, kind: str) -> bytes:
    """Compile by NVRTC; its results are read through calls named by their kind."""
    program = nvrtc.nvrtcCreateProgram(source().encode(), b"pictures.cu", 0, [], [])[1]
    options = [f"--gpu-architecture={arch}".encode()]
    status = nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        text = bytearray(nvrtc.nvrtcGetProgramLogSize(program)[1])
        nvrtc.nvrtcGetProgramLog(program, text)
        raise EngineError(f"kernels for {arch}: {bytes(text).decode(errors='replace').strip()}")
    result = bytearray(getattr(nvrtc, f"nvrtcGet{kind}Size")(program)[1])
    getattr(nvrtc, f"nvrtcGet{kind}")(program, result)
    nvrtc.nvrtcDestroyProgram(program)
    return bytes(result)


def _compile_by_nvcc(major: int, minor: int, missing: Exception) -> bytes:
    compiler = importlib.import_module("pycuda.compiler")
    try:
        cubin: bytes = compiler.compile(source(), no_extern_c=True, arch=f"sm_{major}{minor}")
    except OSError as err:
        raise EngineUnavailable(
            f"no compiler for kernels: NVRTC is missing ({missing}), and nvcc ({err}): "
            "pip install '.[cuda]' in the checkout"
        ) from err
    return cubin


def _driver() -> Any:
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as err:
        raise EngineUnavailable(
            "cuda-bindings is not installed: pip install '.[cuda]' in the checkout"
        ) from err


def _check(driver: Any, what: str, status: Any) -> None:
    if status != driver.CUresult.CUDA_SUCCESS:
        raise EngineError(f"{what}: {getattr(status, 'name', status)}")
