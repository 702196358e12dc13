"""Settings: their dataclasses (`schema`) and how they are read and printed (`load`)."""

from __future__ import annotations

from imdm_dist.config.check import Layer
from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.config.data import DataConfig
from imdm_dist.config.evaluation import EvaluationConfig, EvaluatorConfig
from imdm_dist.config.load import (
    build,
    describe,
    from_dict,
    load_config,
    load_over,
    merge,
    parse_overrides,
    to_dict,
    to_yaml,
)
from imdm_dist.config.model import MaskConfig, ModelConfig
from imdm_dist.config.resources import ResourcesConfig
from imdm_dist.config.schema import Config, InputsConfig
from imdm_dist.config.setting import NoisePolicy, Weights, require, setting, variant_section
from imdm_dist.config.shaping import fixed_settings, identifying_settings, shaping_settings
from imdm_dist.config.training import EngineConfig, ObjectiveConfig, OptimizerConfig, TrainConfig
from imdm_dist.config.yaml_text import read_yaml

__all__ = [
    "Config",
    "CouplingConfig",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "EvaluatorConfig",
    "InputsConfig",
    "Layer",
    "MaskConfig",
    "ModelConfig",
    "NoisePolicy",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ResourcesConfig",
    "TrainConfig",
    "Weights",
    "build",
    "describe",
    "fixed_settings",
    "from_dict",
    "identifying_settings",
    "load_config",
    "load_over",
    "merge",
    "parse_overrides",
    "read_yaml",
    "require",
    "setting",
    "shaping_settings",
    "to_dict",
    "to_yaml",
    "variant_section",
]
