"""What holds for every test: hypothesis judges what happens, not how long
it took beside other workers.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
