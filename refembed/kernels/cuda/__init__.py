"""The `cupy` numerics: float32 on an NVIDIA GPU, by CUDA kernels of our own. docs/gpu.md says what was run where.

ops        `Cupy`: the operations of a forward pass, as launches of kernels
device_ops a device, and arrays on it: what all parts of `Cupy` stand on
state_ops  those of layers that keep a state
image_ops  those of vision towers
graph      capture and replay: all launches of a short text as one
array      `DeviceArray`: an activation in a GPU's memory, which NumPy's functions take too
weights    matrices on the GPU, decoded there from the file's blocks
precision  `Precision`: what products round, and which kernels multiply
launch     what a kernel's arguments are, read from its source, and how they are packed
device     `Device`: allocate, copy, launch; the one thing that differs between a GPU and the compiler that tests use
gpu        `Gpu`: that, by CuPy

*.cu       the kernels. A file has the name of the definition's: norms.cu is exact/norms.py, dequant_kquants.cu is
           quant/dequant_kquants.py; a kernel has the name of its function there.
*.cuh      what several of them share; mma.cuh is tensor cores by PTX
"""
