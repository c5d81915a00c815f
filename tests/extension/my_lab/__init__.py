"""A lab of somebody's own, outside tinylab: each addition is one file."""
