"""Provides `lorikeet mirror`: how programs made for a hub of models take adapters and the base
from this node.

The daemon answers them (node/http/hub.py); nothing is started here.
"""

from __future__ import annotations

from ..api.status import StatusInfo
from .client import CliError, find_url, open_client
from .options import Home, Json
from .show import err, show_json

ENDPOINT = "HF_ENDPOINT"
HUB = "/hub"


def mirror(home: Home, as_json: Json = False) -> None:
    """Print the setting with which huggingface_hub takes adapters and the base from here:
    eval "$(lorikeet mirror)"
    """
    with open_client(home) as client:
        status = client.get("status", StatusInfo)
    if not status.base:
        raise CliError(
            f"this daemon is a {status.role} and holds no adapters; use a volunteer's or a"
            " gateway's home"
        )
    endpoint = find_url(home) + HUB
    if as_json:
        return show_json({ENDPOINT: endpoint, "origin": status.hub_origin})
    print(f"export {ENDPOINT}={endpoint}")
    beside = f"; all else from {status.hub_origin}" if status.hub_origin else ""
    err.print(
        f"adapters by NAME, PEER/NAME or CID, as in snapshot_download('law'); the base by its name"
        f" (lorikeet base show){beside}",
        markup=False,
    )
    return None
