"""What people said: preferences and candidate pools from anywhere, checked row by row."""

from prudent.data._faults import LoadSummary, OnBad
from prudent.data._leak import check_leak
from prudent.data._pools import Pools, PoolsSummary, load_pools
from prudent.data._preferences import Preferences, load_preferences
from prudent.data._sources import DataSource

__all__ = [
    "DataSource",
    "LoadSummary",
    "OnBad",
    "Pools",
    "PoolsSummary",
    "Preferences",
    "check_leak",
    "load_pools",
    "load_preferences",
]
