"""Sites: the places of a block at which an intervention can act."""

from __future__ import annotations

from typing import Literal

Site = Literal["head_out", "mlp_out", "resid_post"]

SITES: tuple[Site, ...] = ("head_out", "mlp_out", "resid_post")
"""In the order in which a block comes to them."""
