"""Makes an AI agent supervisable: heartbeats, commands, costs and retries, without getting in its way."""
