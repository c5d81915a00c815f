"""What lies on disk: the JSON documents of runs and sweeps, declared once, checked before they are written."""
