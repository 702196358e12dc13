"""Process groups of tensor and data parallelism: megatron-core makes them; its layers and DeepSpeed ask for them."""

from __future__ import annotations

import os
import warnings

import torch.distributed as dist
from torch.distributed import ProcessGroup

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says at length what it could do with other packages
    from megatron.core import parallel_state


def form_groups(tensor_parallel: int) -> tuple[int, ProcessGroup, ProcessGroup]:
    """Divide all ranks into tensor-parallel groups of neighbours; every rank calls this.

    Returns:
        place in the tensor-parallel group, that group, and the data-parallel group.
    """
    if tensor_parallel > 1:
        # Lets the sum over ranks overlap the product of the weight's gradient; the library's layers ask for it.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor_parallel, create_gloo_process_groups=False
    )
    return (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_data_parallel_group(),
    )


def leave_groups() -> None:
    """Undo `form_groups`: every group has threads and connections of its own."""
    for group in parallel_state._global_process_group_list or []:
        if group is not None:  # None stands for the default group
            dist.destroy_process_group(group)
    parallel_state.destroy_model_parallel()


class Mpu:
    """megatron-core's groups under the names that DeepSpeed asks an `mpu` for."""

    get_data_parallel_group = staticmethod(parallel_state.get_data_parallel_group)
    get_data_parallel_rank = staticmethod(parallel_state.get_data_parallel_rank)
    get_data_parallel_world_size = staticmethod(parallel_state.get_data_parallel_world_size)
    get_tensor_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)
    get_tensor_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_tensor_model_parallel_world_size = staticmethod(parallel_state.get_tensor_model_parallel_world_size)
    get_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)
    get_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_model_parallel_world_size = staticmethod(parallel_state.get_tensor_model_parallel_world_size)
