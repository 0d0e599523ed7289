"""The predict service: the native data plane and what Python adds around it."""

from services.predict.settings import NodeSettings, Tier

__all__ = ["NodeSettings", "Tier"]
