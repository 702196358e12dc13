"""Evaluation: metrics of models and their samples, the evaluator that scores samples, tables of results."""
