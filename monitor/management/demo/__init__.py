"""A simulated fleet of agents that lives on the public API."""
