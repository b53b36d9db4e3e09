"""The Function controller: creates the objects that run a Function, and writes its status."""
