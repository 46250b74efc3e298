"""The DALI backend: its loader, and the graph of operators that it runs."""
