"""The report of an import: what it used, renamed and left out; printed, and kept as import.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ImportReport:
    """An account of one import; plain values, as they stand in import.json."""

    file: str
    """Name of the file of the weights."""
    container: str
    """What it is packed in."""
    sha256: str
    """Of that file."""
    integrity: str
    """What its own checksums say."""
    step: int
    """Optimizer steps it was trained for; 0 where the file does not say."""
    used: list[str]
    """Parameters that were taken, by their names here."""
    renamed: dict[str, str]
    """Name here, by the name in the file, where they differ."""
    ignored: dict[str, str]
    """What was left out, and why."""
    missing: list[str]
    """What the published files have and this one lacks, and can be done without."""
    dtypes: list[str]
    """Types of the file's tensors; all are float32 here."""
    parameters: int
    """Elements of all parameters."""
    model: dict[str, Any]
    """Settings of the section model, with the mask in words; then vocabulary, mask id and length."""
    origins: dict[str, str]
    """Where those come from that the shapes of tensors do not tell."""
    ema: dict[str, Any]
    """What the moving average is, and what was verified of it."""

    def __str__(self) -> str:
        model = self.model
        settings = [f"{name} {model[name]}" for name in model if name not in ("vocab_size", "mask_id", "length")]
        prefixes = sorted({theirs.removesuffix(ours) for theirs, ours in self.renamed.items()})
        lines = [
            f"{self.file}: {self.container}, step {self.step}, sha256 {self.sha256[:16]}",
            f"         {self.integrity}",
            f"model    {self.parameters:,} parameters: {', '.join(settings)}",
            f"tokens   vocabulary {model['vocab_size']}, mask {model['mask_id']}, length {model['length']}",
            *(f"         {name}: {where}" for name, where in self.origins.items()),
            f"used     {len(self.used)} tensors ({', '.join(self.dtypes)})",
            f"renamed  {len(self.renamed)}" + (f" (without {', '.join(prefixes)})" if prefixes else ""),
            f"ignored  {len(self.ignored)}",
            *(f"         {name}: {why}" for name, why in self.ignored.items()),
            f"missing  {len(self.missing)}" + (f" ({', '.join(self.missing)}: not needed)" if self.missing else ""),
            f"EMA      {self.ema['about']}",
        ]
        return "\n".join(lines)
