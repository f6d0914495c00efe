"""Where people meet the loop: judging pairs, and talking with a policy. Starts without torch."""
