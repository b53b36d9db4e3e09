"""The trigger controllers: run the flows of each trigger, and write its status."""
