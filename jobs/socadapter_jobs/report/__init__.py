"""The page and the model card of one run, for people. Reads what the run measured; measures nothing itself.

Called by the run's evaluate and publish stages, and by ``python -m socadapter_jobs.report``.
"""

from socadapter_jobs.report.model_card import model_card
from socadapter_jobs.report.page import render

__all__ = ["model_card", "render"]
