"""The paper's figures beside ours: published tables, the two-token language of Sec. 5.2, plots and the demo."""
