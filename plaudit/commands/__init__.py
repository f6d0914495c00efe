"""Groups of commands that the command line gathers. Heavy modules are imported inside the commands."""
