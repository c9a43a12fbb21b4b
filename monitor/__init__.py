"""The facts: what agents did, what it cost, whether they may go on, what they asked a human."""
