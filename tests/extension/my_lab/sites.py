"""A site: what attention writes into the residual stream."""

from tinylab.interventions.sites import Site

ATTN_OUT = Site("attn_out", "projection", "out")
