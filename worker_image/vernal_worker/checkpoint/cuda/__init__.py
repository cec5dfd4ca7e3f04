"""The CUDA side of freezing and thawing.

One helper process per worker (`helper`) makes every call of the driver's checkpoint API, because `cuInit` takes
0.15 s and more: it is started first and is ready when it is needed. It also holds the GPU memory of a tree that is
about to be thawed (`memory`): weights are read into it while CRIU restores the processes, which then only map it.
`client` is the supervisor's side. Everything here needs cuda-bindings at run time, and no torch.
"""
