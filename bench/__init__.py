"""Measurements, each as a ratio within one run: `make bench`, or `make bench ARGS=watch_tick` for one of them."""
