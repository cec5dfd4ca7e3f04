"""The methods of AsyncLLM that are one call in the engine, with AsyncLLM's signatures."""

from collections.abc import Iterable
from typing import Any


class Calls:
    """Mixed into `CheckpointableAsyncLLM`. What a method means is in vLLM's documentation of AsyncLLM."""

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def abort(self, request_id: str | Iterable[str], internal: bool = False) -> None:
        """`internal` ids are the engine's own, which a program does not see."""
        ids = [request_id] if isinstance(request_id, str) else list(request_id)
        await self.call("abort", ids, **({"internal": True} if internal else {}))

    async def get_supported_tasks(self) -> tuple[Any, ...]:
        tasks: tuple[Any, ...] = tuple(await self.call("get_supported_tasks"))
        return tasks

    async def notify_kv_transfer_request_rejected(
        self, request_id: str, kv_transfer_params: dict[str, Any], *, data_parallel_rank: int | None = None
    ) -> None:
        await self.call(
            "notify_kv_transfer_request_rejected",
            request_id,
            kv_transfer_params,
            **({} if data_parallel_rank is None else {"data_parallel_rank": data_parallel_rank}),
        )

    async def pause_generation(
        self, *, mode: str = "abort", wait_for_inflight_requests: bool | None = None, clear_cache: bool = True
    ) -> None:
        """`wait_for_inflight_requests`: only of older versions of vLLM, which `mode="wait"` says as well."""
        more = {"wait_for_inflight_requests": wait_for_inflight_requests}
        given = {name: value for name, value in more.items() if value is not None}
        await self.call("pause_generation", mode=mode, clear_cache=clear_cache, **given)

    async def resume_generation(self) -> None:
        await self.call("resume_generation")

    async def is_paused(self) -> bool:
        return bool(await self.call("is_paused"))

    async def is_tracing_enabled(self) -> bool:
        return bool(await self.call("is_tracing_enabled"))

    async def do_log_stats(self) -> None:
        await self.call("do_log_stats")

    async def check_health(self) -> None:
        await self.call("check_health")

    async def start_profile(
        self,
        profile_prefix: str | None = None,
        *,
        delay_iterations: int | None = None,
        max_iterations: int | None = None,
    ) -> None:
        options = {"delay_iterations": delay_iterations, "max_iterations": max_iterations}
        await self.call("start_profile", profile_prefix, **{k: v for k, v in options.items() if v is not None})

    async def stop_profile(self) -> None:
        await self.call("stop_profile")

    async def reset_mm_cache(self) -> None:
        await self.call("reset_mm_cache")

    async def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        return bool(await self.call("reset_prefix_cache", reset_running_requests, reset_connector))

    async def reset_encoder_cache(self) -> None:
        await self.call("reset_encoder_cache")

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        await self.call("sleep", level, mode)

    async def release_kv_cache_memory(self) -> None:
        await self.call("release_kv_cache_memory")

    async def wake_up(self, tags: list[str] | None = None) -> bool:
        """None with versions of vLLM that do not say."""
        awake: bool = await self.call("wake_up", tags)
        return awake

    async def is_sleeping(self) -> bool:
        return bool(await self.call("is_sleeping"))

    async def checkpoint_prepare(self) -> None:
        """vLLM's own, for its communicators; `freeze` does not need it."""
        await self.call("checkpoint_prepare")

    async def checkpoint_restore(self) -> None:
        """vLLM's own, for its communicators; a thaw does not need it."""
        await self.call("checkpoint_restore")

    async def compute_weight_checksums(self) -> list[dict[str, str]]:
        checksums: list[dict[str, str]] = await self.call("compute_weight_checksums")
        return checksums

    async def add_lora(self, lora_request: Any) -> bool:
        return bool(await self.call("add_lora", lora_request))

    async def remove_lora(self, lora_id: int) -> bool:
        return bool(await self.call("remove_lora", lora_id))

    async def list_loras(self) -> set[int]:
        return set(await self.call("list_loras"))

    async def pin_lora(self, lora_id: int) -> bool:
        return bool(await self.call("pin_lora", lora_id))

    async def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,  # noqa: ASYNC109  # AsyncLLM's
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """`method` is a name: functions do not travel.

        Raises: TypeError: it is none, or an argument cannot be sent.
        """
        if not isinstance(method, str):
            name = getattr(method, "__qualname__", type(method).__name__)
            raise TypeError(f"collective_rpc takes the name of a worker's method: the function {name} cannot be sent")
        return await self.call("collective_rpc", method, timeout, args, kwargs)

    async def wait_for_requests_to_drain(self, drain_timeout: int = 300) -> None:
        await self.call("wait_for_requests_to_drain", drain_timeout)

    async def scale_elastic_ep(self, new_data_parallel_size: int, drain_timeout: int = 300) -> None:
        await self.call("scale_elastic_ep", new_data_parallel_size, drain_timeout)

    async def handle_fault(self, fault_tolerance_request: Any) -> Any:
        return await self.call("handle_fault", fault_tolerance_request)

    async def get_status(self) -> Any:
        return await self.call("get_status")

    async def init_weight_transfer_engine(self, request: Any) -> None:
        await self.call("init_weight_transfer_engine", request)

    async def shutdown_weight_transfer_engine(self) -> None:
        await self.call("shutdown_weight_transfer_engine")

    async def start_weight_update(self) -> None:
        await self.call("start_weight_update")

    async def start_draft_weight_update(self) -> None:
        await self.call("start_draft_weight_update")

    async def update_weights(self, request: Any) -> None:
        await self.call("update_weights", request)

    async def finish_weight_update(self, weight_version: str | None = None) -> None:
        await self.call(
            "finish_weight_update", **({} if weight_version is None else {"weight_version": weight_version})
        )

    async def update_weight_version(self, new_version: str) -> None:
        await self.call("update_weight_version", new_version)

    async def get_weight_version(self) -> str:
        return str(await self.call("get_weight_version"))
