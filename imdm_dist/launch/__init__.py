"""Starting processes on a cluster, and what a cluster does to them."""
