"""An offline page to look at rollouts: every policy's answer to every question, with the edited figures."""
