from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sdk import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    """Clients when they are first asked for: whoever only works here needs no HTTP."""
    if name in ("Client", "AsyncClient"):
        from . import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module 'luthier' has no attribute {name!r}")
