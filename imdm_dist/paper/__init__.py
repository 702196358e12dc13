"""What belongs to arXiv 2605.10518 alone: its published tables, the two-token language of Sec. 5.2, plots, the demo."""
