"""`handrail run`: supervises any program."""
