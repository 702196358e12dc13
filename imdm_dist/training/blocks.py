"""How a backbone runs in training: fused LayerNorm, activation checkpointing (recomputation), torch.compile."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sysconfig

import torch
from torch.utils.checkpoint import checkpoint

from imdm_dist.config.training import EngineConfig
from imdm_dist.model import Backbone
from imdm_dist.model.layers import LayerNorm
from imdm_dist.training.apex import apex_layer_norm


def prepare_blocks(model: Backbone, config: EngineConfig) -> Backbone:
    """Set the model up as `config` says, in place, on its device; names of modules and parameters stay.

    Raises:
        ValueError: apex is asked for and is not there, or does not agree with torch.
    """
    if config.layer_norm == "apex":
        normalise = apex_layer_norm(model.device)
        for module in model.modules():
            if isinstance(module, LayerNorm):
                module.normalise = normalise  # type: ignore[method-assign, assignment]
    for block in model.blocks:
        if config.compile:
            block.compile()
        if config.recompute:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return model


def check_compile(config: EngineConfig, device: torch.device) -> None:
    """Check that what engine.compile needs is there: a compiler that finds Python's headers, and on a GPU Triton.

    torch.compile looks for it at the first forward pass only, deep in its own machinery.

    Raises:
        ValueError: it is not there; the message says what is missing.
    """
    if not config.compile:
        return
    remedy = "or set engine.compile=false"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ValueError(f"engine.compile on a GPU needs the package triton: pip install triton, {remedy}")
        kind, variable, language = "C", "CC", "c"
        compiler = os.environ.get(variable) or shutil.which("gcc") or shutil.which("clang") or "gcc"
    else:
        kind, variable, language = "C++", "CXX", "c++"
        compiler = os.environ.get(variable) or "g++"
    headers = sysconfig.get_path("include")
    command = [compiler, "-x", language, "-fsyntax-only", f"-I{headers}", "-"]
    try:
        tried = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True)
    except OSError as error:
        raise ValueError(
            f"engine.compile needs a {kind} compiler, and {compiler} does not run ({error.strerror}): "
            f"install gcc and g++, name one with {variable}, {remedy}"
        ) from None
    if tried.returncode != 0:
        cause = next((line for line in tried.stderr.splitlines() if "error" in line), f"exit code {tried.returncode}")
        raise ValueError(
            f"engine.compile needs a {kind} compiler that finds Python's headers (in {headers}), and {compiler} does "
            f"not ({cause.strip()}): install the compiler and these headers whole (python3-dev), {remedy}"
        )
