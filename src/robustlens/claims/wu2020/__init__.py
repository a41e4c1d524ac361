"""Wu, Xia and Wang (NeurIPS 2020): the quantities that the paper speaks of, and what it claims of them."""
