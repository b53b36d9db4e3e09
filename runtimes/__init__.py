"""What runs inside a function's process, one folder a language. Nothing here imports the rest of kubeirq."""
