"""All-reduce and all-gather between the ranks of one engine, over memory that they can give up before a freeze.

NCCL and vLLM's own all-reduce use NVLink through memory that processes share for as long as they live, and a driver
before 610 cannot freeze a process that has such memory. Here it is a small inbox a rank (`link`): unmapped before the
freeze, made and exchanged anew (`rendezvous`) after the thaw, on whatever GPUs that is. The kernels (`kernel`,
`exchange.cu`) find the inboxes through a table on the GPU, so that CUDA graphs which hold them stay valid. `hook` lets
vLLM's NCCL communicator use them; what they do not take goes on to NCCL.
"""
