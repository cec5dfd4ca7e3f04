"""What a host with GPUs is said to be."""

from vernal_worker.checkpoint import gpu, host


def test_real_gpus() -> None:
    found = gpu.gpus()
    assert found.count >= 1
    assert found.product
    assert found.product.startswith("NVIDIA")
    assert found.driver
    here = host.host_tuple()
    assert here.gpu_count == found.count == len(here.gpu_memory_gib)
    assert min(here.gpu_memory_gib) >= 4
    assert here.gpu_compute_capability is not None
    assert float(here.gpu_compute_capability) >= 7
