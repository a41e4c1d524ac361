"""Wu, Xia and Wang (NeurIPS 2020): the quantities of the paper, and its claims."""
