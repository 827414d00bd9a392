"""Public data sets, read in the layout in which they are published, as cases.

Each importer says in its first lines what it was run on. What every case of a set hides from the model is decided
there; nothing of a label, of its provenance or of an absolute date is left in `alert` or `evidence`.
"""
