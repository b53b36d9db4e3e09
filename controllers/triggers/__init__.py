"""The trigger controllers: from a trigger to its flows, and its status."""
