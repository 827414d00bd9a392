"""A cyber range: a small simulated enterprise whose alerts have a known truth, with tools to investigate them.

It is the embedded default of the demo and of the tests, and nothing else imports it. Two business contexts share the
same detection rules and the same evidence words, and disagree on what the words mean.
"""

from socadapter_range.dataset import export, range_cases, solve
from socadapter_range.expert import decide, expert
from socadapter_range.toolbox import RangeToolbox
from socadapter_range.tools import TOOL_SPECS
from socadapter_range.vocabulary import CONTEXTS
from socadapter_range.world import World

__all__ = ["CONTEXTS", "TOOL_SPECS", "RangeToolbox", "World", "decide", "expert", "export", "range_cases", "solve"]
