"""From Python: `tinylab.run` and `tinylab.sweep` run what the command line runs, and give results back in memory."""
