"""For people: pages, and no tables."""
