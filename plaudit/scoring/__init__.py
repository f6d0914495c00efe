"""Numbers for answers: from a reward model, a function of yours, a judging model, or several of them."""
