"""A stage's configuration: the sections of all settings, as frozen dataclasses.

Precedence is: the defaults < a YAML file < ``key.sub=value`` on the command line
(`imdm_dist.config.load`). A section is handed to the code it configures and to no other, so
what a function depends on can be read off its signature. The string below a field is its
documentation; `describe` in `imdm_dist.config.load` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from imdm_dist.config.coupling import CouplingConfig
from imdm_dist.config.data import DataConfig
from imdm_dist.config.evaluation import EvaluationConfig, EvaluatorConfig
from imdm_dist.config.model import ModelConfig
from imdm_dist.config.resources import ResourcesConfig
from imdm_dist.config.setting import Weights, variant_section
from imdm_dist.config.training import EngineConfig, ObjectiveConfig, OptimizerConfig, TrainConfig
from imdm_dist.registry import BACKBONES, OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """What a stage starts from: outputs of earlier stages."""

    init: str = ""
    """Run folder or checkpoint whose weights training starts from, as an objective's first teacher too; empty is
    random."""
    init_weights: Weights = "ema"
    """Which of its weights (the authors distil from EMA weights)."""
    coupling: str = ""
    """Coupling folder that an objective on pairs trains on."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All sections of one stage."""

    inputs: InputsConfig = field(default_factory=InputsConfig)

    model: ModelConfig = variant_section(BACKBONES)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = variant_section(OBJECTIVES)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    coupling: CouplingConfig = field(default_factory=CouplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    evaluator: EvaluatorConfig = field(default_factory=EvaluatorConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
