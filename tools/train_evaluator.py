"""`imdm_dist train-evaluator`: a small causal language model that scores samples."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("train-evaluator")
