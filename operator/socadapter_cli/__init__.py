"""The command line: ``socadapter ...``. Each command's module, and what it needs, is imported when it is called."""
