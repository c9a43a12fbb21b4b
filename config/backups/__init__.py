"""Backups of the whole instance: one consistent moment in files, and the way back."""
