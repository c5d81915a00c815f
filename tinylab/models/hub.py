"""Whether the hub answers: decided once, in seconds, so that a machine without network is told so and not kept waiting.

By itself huggingface_hub asks again and again for minutes. What is used here is its own client, so that proxies, certificates
and a mirror (`HF_ENDPOINT`) are as the user has set them; any answer counts. Where none comes, what is in the local cache has to do.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache

SECONDS = 3.0
"""How long an answer is waited for, unless `HF_HUB_ETAG_TIMEOUT` says otherwise."""


def patience() -> float:
    """Seconds that an answer is waited for."""
    try:
        return max(1.0, float(os.environ["HF_HUB_ETAG_TIMEOUT"]))
    except (KeyError, ValueError):
        return SECONDS


def endpoint() -> str:
    """The address of the hub, or of a mirror."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def answers() -> bool:
    """Whether the hub answers at all; False without asking where `HF_HUB_OFFLINE` is set."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _answers(endpoint(), patience())


@lru_cache(maxsize=8)
def _answers(address: str, seconds: float) -> bool:
    """Whether anything comes back from an address; a thread asks, as looking up a name can take longer than any limit."""
    from huggingface_hub.utils import get_session

    came = threading.Event()
    done = threading.Event()

    session = get_session()

    def ask() -> None:
        try:
            session.head(address, timeout=seconds)
            came.set()
        except Exception:  # of whatever client this version has: then nothing came
            pass
        finally:
            done.set()

    threading.Thread(target=ask, name="hub", daemon=True).start()
    done.wait(seconds)
    return came.is_set()
