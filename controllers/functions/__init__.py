"""The Function controller: from a Function to the objects that run it, and its status."""
