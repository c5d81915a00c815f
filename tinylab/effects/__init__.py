"""From an engine's numbers to effects: numbers per cell, their strength."""
