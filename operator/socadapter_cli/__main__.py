"""``python -m socadapter_cli`` is ``socadapter``."""

from socadapter_cli.main import main

main()
