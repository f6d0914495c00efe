"""What turns answers into numbers: reward models, functions, judges' ratings, and several of them as one."""
