"""What engines on a GPU share: memory, streams, pictures prepared there, copies beside compute.

    device      what a GPU does for an engine, as a protocol; `open_device`
    cuda        the same by pycuda, and by cuda-python (`driver_calls`) where pycuda has no call
    pictures    uint8 pictures to a tensor on the GPU: geometry, and the kernel `pictures.cu`
    pages       which memory of this process is page-locked, the shared slots among it
    lane        a stream with the memory of one batch, and a model
    lanes       batches in flight, one in a lane, so that copies and compute overlap
    outputs     memory for results, used again
    engine      an engine of lanes
    onnx        ONNX Runtime in lanes

Importing this package imports none of CUDA.
"""
